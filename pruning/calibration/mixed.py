"""Half of the windows from each of two texts: `calibration=mixed`.

A linear map that repairs a mask learns the text that it is fitted on. With half of each text it serves both nearly as
well as a map for one of them does (`docs/objectives.md`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pruning.calibration.both import interleaved
from pruning.calibration.samples import Samples
from pruning.calibration.text import WindowDraw
from pruning.core.errors import InputError


@dataclass(frozen=True)
class Mixed:
    """`samples` windows of `length` tokens, half of them from each of two texts; an odd one is from the first text.

    `first` and `second` are calibrations of text. Only what locates their text is used: `samples`, `length` and
    `seed` here, and `disjoint`, replace theirs. Windows of the two texts alternate.
    """

    first: Any
    second: Any
    samples: int
    length: int
    seed: int
    disjoint: bool = False

    kind: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            if (kind := getattr(self, name).kind) != "text":
                raise InputError(f"calibration.{name} is a calibration of {kind}: choose one of text.")
        WindowDraw(self.samples, self.length, self.seed).check()
        if self.samples < 2:
            raise InputError(
                f"calibration.samples={self.samples} is too few: give at least 2, one for each text."
            )

    def file(self) -> str | None:
        """None; the methods `file` of `first` and `second` return the files that are read."""
        return None

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """Draw the windows. Raises InputError if a text is too short, or if both are the same text."""
        first, second = (
            replace(part, samples=count, length=self.length, seed=self.seed, disjoint=self.disjoint)
            .draw(tokenizer, prefix)
            .labelled()
            for part, count in ((self.first, -(-self.samples // 2)), (self.second, self.samples // 2))
        )
        if shared := first.shared(second):
            raise InputError(
                f"{prefix}.first ({first.source}) and {prefix}.second ({second.source}) share {shared} runs of "
                "tokens: choose two different texts, or a calibration of one text."
            )
        rows = tuple(row for unit in interleaved(first.units, second.units) for row in unit)
        return Samples("text", f"{first.source} + {second.source}", rows, self.seed)
