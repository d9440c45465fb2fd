"""Calibration: the data that an objective sees while a search runs. Text windows or multiple-choice items."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from pruning.calibration.samples import Samples


class Calibration(Protocol):
    """What every kind of calibration offers: settings that draw samples."""

    kind: ClassVar[str]  # "text" or "items"

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """The samples of these settings for a tokenizer: always the same for the same settings.

        `prefix` is the group that errors name.
        """
        ...

    def file(self) -> str | None:
        """The local file that is read, if any: its contents, not its name, are part of a cell's identity."""
        ...
