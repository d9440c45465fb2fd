"""Windows of text and multiple-choice items together, for mixed objectives: `calibration=both`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pruning.calibration.samples import Row, Samples
from pruning.core.errors import InputError

Unit = tuple[Row, ...]


@dataclass(frozen=True)
class Both:
    """The samples of a text calibration and of an items calibration, in turn.

    They are interleaved in proportion to their numbers, beginning with one of each, so that the first n samples hold
    both kinds for any n from 2 on: searches and races that look at a part of the samples see the mixture.
    """

    text: Any
    items: Any

    kind: ClassVar[str] = "both"

    def __post_init__(self) -> None:
        for name in ("text", "items"):
            if (kind := getattr(self, name).kind) != name:
                raise InputError(f"calibration.{name} gives {kind}: choose a calibration of {name} for it.")

    def file(self) -> str | None:
        """None: each part names its own."""
        return None

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """Draw both. Raises InputError as they do."""
        text: Samples = self.text.draw(tokenizer, f"{prefix}.text")
        items: Samples = self.items.draw(tokenizer, f"{prefix}.items")
        rows = tuple(row for unit in interleaved(text.units, items.units) for row in unit)
        return Samples("both", f"{text.source} + {items.source}", rows, text.seed, items.keys)


def interleaved(text: Sequence[Unit], items: Sequence[Unit]) -> list[Unit]:
    """Two kinds of samples in one order: evenly spread, one of each first."""
    places = [(n / len(text), 0, unit) for n, unit in enumerate(text)]
    places += [(n / len(items), 1, unit) for n, unit in enumerate(items)]
    return [unit for *_, unit in sorted(places, key=lambda place: place[:2])]
