"""Angular distance. Source: Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers (arXiv 2403.17887),
who only consider masks that remove one run of n blocks, from block l on, at the cost d(l, l + n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pruning.core.errors import check_known
from pruning.objective import Forward, Loss, Samples, Tensor
from pruning.objective._criteria import BY, between_states


@dataclass(frozen=True)
class Angular:
    """The angle between the final token's states before and after a run of removed blocks, as a fraction of pi.

    If h_i(T) is the state before block i of a row's final token T, a run of removed blocks i..j-1 costs

        d(i, j) = arccos( <h_i(T), h_j(T)> / (|h_i(T)| |h_j(T)|) ) / pi
    """

    needs: ClassVar[str] = "any"
    by: str = "run"

    def __post_init__(self) -> None:
        check_known("objective", self, by=BY)

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss as a sum over removed blocks or runs, with one term per sample."""
        return between_states(forward, samples, _angle, self.by)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    from torch.nn.functional import cosine_similarity

    cosine = cosine_similarity(a[-1].double(), b[-1].double(), dim=0)
    return cosine.clamp(-1.0, 1.0).acos() / math.pi
