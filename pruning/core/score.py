"""The score of a mask: its loss under one objective, with a term for each sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pruning.core.errors import LossError
from pruning.core.mask import Mask
from pruning.core.trace import TraceLine


@dataclass(frozen=True, slots=True)
class Score:
    """The loss of one mask under one objective, with its per-sample terms; lower is better.

    `seconds` is the time that this cell took to compute the loss; 0 if another cell had computed it. A partial score
    covers only the first samples; its `of` is the number of all samples. In a full score, `of` is None. `parts` is
    the number of parts in which the samples were scored; batches of another size are rounded differently.
    """

    mask: Mask
    loss: float
    samples: tuple[float, ...]
    seconds: float
    of: int | None = None
    parts: int = 1

    def __post_init__(self) -> None:
        if not math.isfinite(self.loss):
            if not self.mask.dropped:
                raise LossError(f"the loss of the whole model is {self.loss}: try model.dtype=float32.")
            raise LossError(
                f"the loss is {self.loss} with {self.mask.described()} removed: "
                "protect those blocks (protect.first, protect.last), or try model.dtype=float32."
            )

    def to_line(self) -> TraceLine:
        """This score as a line of `trace.jsonl`."""
        line: TraceLine = {
            "dropped": list(self.mask.dropped),
            "loss": self.loss,
            "samples": list(self.samples),
            "seconds": max(round(self.seconds, 6), 1e-6) if self.seconds else 0.0,
        }
        if self.of is not None:
            line["of"] = self.of
        if self.parts > 1:
            line["parts"] = self.parts
        return line

    @classmethod
    def from_line(cls, line: TraceLine, n_blocks: int, unit: str = "block") -> Score:
        """The score that a line holds. Raises InputError if the line names units that the model does not have."""
        mask = Mask(n_blocks, tuple(line["dropped"]), unit)
        return cls(
            mask,
            float(line["loss"]),
            tuple(map(float, line["samples"])),
            float(line["seconds"]),
            line.get("of"),
            line.get("parts", 1),
        )

    def exceeds(self, other: Score | None) -> bool:
        """Whether this score covers more samples than `other`, the mask's earlier score; True if `other` is None."""
        return other is None or len(self.samples) > len(other.samples)
