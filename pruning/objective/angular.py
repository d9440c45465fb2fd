"""Angular distance: the angle by which a run of blocks turns the state of the final token.

Source: Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers (arXiv 2403.17887).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pruning.core.errors import check_known
from pruning.objective import Forward, Loss, Samples, Tensor, _criteria


@dataclass(frozen=True)
class Angular:
    """The angle between the states before and after a run of removed blocks, as a fraction of pi.

    Let h_i(T) be the state of a row's final token T before block i. A run of removed blocks i..j-1 costs

        d(i, j) = arccos( <h_i(T), h_j(T)> / (|h_i(T)| |h_j(T)|) ) / pi

    The loss of a mask is the sum over its runs, averaged over rows: for one run, the d(l, l + n) of Gromov et al.,
    who consider no other masks. With `by="block"`, each removed block counts as a separate run.
    """

    needs: ClassVar[str] = "any"
    by: str = "run"

    def __post_init__(self) -> None:
        check_known("objective", self, by=_criteria.BY)

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss as a sum over runs of removed blocks, from one dense pass, with one term per sample."""
        return _criteria.between_states(forward, samples, _angle, self.by)


def _angle(a: Tensor, b: Tensor) -> float:
    """The angle, divided by pi, between the final tokens of two states (T, D)."""
    from torch.nn.functional import cosine_similarity

    cosine = float(cosine_similarity(a[-1].double(), b[-1].double(), dim=0))
    return math.acos(max(-1.0, min(1.0, cosine))) / math.pi
