"""Calibration: the data that an objective uses during a search: text windows or multiple-choice items."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from pruning.calibration.samples import Samples


class Calibration(Protocol):
    """The interface of every calibration: settings that draw samples."""

    kind: ClassVar[str]  # "text", "items" or "both"

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """The samples for a tokenizer. The same settings always give the same samples.

        Error messages put `prefix`, the settings group, before a setting's name.
        """
        ...

    def file(self) -> str | None:
        """The local file that is read, if any. Its contents, not its name, are part of a cell's identity."""
        ...


def kinds_for(needs: str) -> tuple[str, ...]:
    """The kinds of samples that fit what an objective needs; "any" means text or items."""
    return ("text", "items") if needs == "any" else (needs,)
