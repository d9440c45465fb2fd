"""Relative magnitude. Source: Weight subcloning (Samragh et al., arXiv 2312.09299), which uses this ratio.
ShortGPT (2403.03853) uses it as a baseline under this name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pruning.core.errors import InputError, check_known
from pruning.objective import Forward, Loss, Samples, Tensor
from pruning.objective._criteria import BY, between_states


@dataclass(frozen=True)
class RelativeMagnitude:
    """How much a block (or run) with input h_i and output h_j adds: mean over tokens of ||h_j - h_i|| / ||h_j||.

    `norm` is the order p of the norm: 2 or 1 (arXiv 2407.16286 compares both).
    """

    needs: ClassVar[str] = "any"
    norm: int = 2
    by: str = "block"

    def __post_init__(self) -> None:
        check_known("objective", self, by=BY)
        if self.norm not in (1, 2):
            raise InputError(f"objective.norm={self.norm} is not supported: choose 1 or 2.")

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss as a sum over removed blocks or runs, with one term per sample."""

        def added(a: Tensor, b: Tensor) -> Tensor:
            before, after = a.double(), b.double()
            sizes: Tensor = (after - before).norm(self.norm, dim=-1) / after.norm(self.norm, dim=-1)
            return sizes.mean()

        return between_states(forward, samples, added, self.by)
