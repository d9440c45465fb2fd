"""Relative magnitude: how large what a block adds is, beside what leaves it.

Source: Weight subcloning (Samragh et al., arXiv 2312.09299), as ShortGPT (2403.03853) takes it up under this name for
a baseline: a residual block x + f(x) matters by ||f(x)|| / ||x + f(x)||. Only this ratio is taken from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pruning.core.errors import InputError
from pruning.objective import Loss, _criteria

if TYPE_CHECKING:
    from torch import Tensor

    from pruning.calibration.samples import Samples
    from pruning.engine.forward import Forward


@dataclass(frozen=True)
class RelativeMagnitude:
    """Mean over tokens of ||F(h) - h|| / ||F(h)||, of states h before a block and F(h) behind it.

    What a block adds, f(h) = F(h) - h, is that of attention and MLP together, as a block is what is removed. `norm`
    is the p of the norm over the width of the state: 2, or 1 (2407.16286 compares both). `by="run"` compares the ends
    of each run of removed blocks.
    """

    needs: ClassVar[str] = "any"
    norm: int = 2
    by: str = "block"

    def __post_init__(self) -> None:
        _criteria.check_by(self.by)
        if self.norm not in (1, 2):
            raise InputError(f"objective.norm={self.norm} is not known: choose 1 or 2.")

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """A sum over removed blocks, from one dense pass; one term a sample."""

        def added(a: Tensor, b: Tensor) -> float:
            before, behind = a.double(), b.double()
            sizes = (behind - before).norm(self.norm, dim=-1) / behind.norm(self.norm, dim=-1)
            return float(sizes.mean())

        return _criteria.between_states(forward, samples, added, self.by)
