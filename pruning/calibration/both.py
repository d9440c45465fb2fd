"""Text windows together with multiple-choice items, for mixed objectives: `calibration=both`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pruning.calibration.samples import Row, Samples
from pruning.core.errors import InputError

Unit = tuple[Row, ...]


@dataclass(frozen=True)
class Both:
    """The samples of a text calibration and of an items calibration, interleaved.

    Windows and items alternate in proportion to their numbers, beginning with one of each. So if n >= 2, the first n
    samples contain both kinds. A search or race that uses a part of the samples therefore uses both kinds.
    """

    text: Any
    items: Any

    kind: ClassVar[str] = "both"

    def __post_init__(self) -> None:
        for name in ("text", "items"):
            if (kind := getattr(self, name).kind) != name:
                raise InputError(f"calibration.{name} is a calibration of {kind}: choose one of {name}.")

    def file(self) -> str | None:
        """None; the methods `file` of `text` and `items` return the files that are read."""
        return None

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """Draw the samples of both parts. Raises InputError if either part does."""
        text: Samples = self.text.draw(tokenizer, f"{prefix}.text").labelled()
        items: Samples = self.items.draw(tokenizer, f"{prefix}.items").labelled()
        rows = tuple(row for unit in interleaved(text.units, items.units) for row in unit)
        return Samples("both", f"{text.source} + {items.source}", rows, text.seed, items.keys)


def interleaved(text: Sequence[Unit], items: Sequence[Unit]) -> list[Unit]:
    """Both kinds of samples in one list, evenly spread and beginning with one of each."""
    ranked = [(n / len(text), 0, unit) for n, unit in enumerate(text)]
    ranked += [(n / len(items), 1, unit) for n, unit in enumerate(items)]
    return [unit for *_, unit in sorted(ranked, key=lambda entry: entry[:2])]
