"""Relative magnitude: the size of a block's residual relative to the size of the block's output.

Source: Weight subcloning (Samragh et al., arXiv 2312.09299); ShortGPT (2403.03853) uses it as a baseline under this
name. The importance of a residual block x + f(x) is ||f(x)|| / ||x + f(x)||. Only this ratio is used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pruning.core.errors import InputError, check_known
from pruning.objective import Forward, Loss, Samples, Tensor, _criteria


@dataclass(frozen=True)
class RelativeMagnitude:
    """Mean over tokens of ||F(h) - h|| / ||F(h)||, for the states h before a block and F(h) after it.

    `norm` is the order p of the norm over the state's width: 2 or 1 (2407.16286 compares both). `by="run"` compares
    the states before and after each run of removed blocks.
    """

    needs: ClassVar[str] = "any"
    norm: int = 2
    by: str = "block"

    def __post_init__(self) -> None:
        check_known("objective", self, by=_criteria.BY)
        if self.norm not in (1, 2):
            raise InputError(f"objective.norm={self.norm} is not supported: choose 1 or 2.")

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss as a sum over removed blocks or runs, from one dense pass, with one term per sample."""

        def added(a: Tensor, b: Tensor) -> float:
            before, after = a.double(), b.double()
            sizes = (after - before).norm(self.norm, dim=-1) / after.norm(self.norm, dim=-1)
            return float(sizes.mean())

        return _criteria.between_states(forward, samples, added, self.by)
