"""Angular distance: how far a run of blocks turns the state of the last token.

Source: Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers (arXiv 2403.17887).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pruning.objective import Loss, _criteria

if TYPE_CHECKING:
    from torch import Tensor

    from pruning.calibration.samples import Samples
    from pruning.engine.forward import Forward


@dataclass(frozen=True)
class Angular:
    """The angle between the states before and behind a run of removed blocks, as a fraction of pi.

    With the state h_i(T) of a row's final token T before block i, a run of removed blocks i..j-1 costs

        d(i, j) = arccos( <h_i(T), h_j(T)> / (|h_i(T)| |h_j(T)|) ) / pi

    and a mask the sum over its runs, the mean over rows. For a mask of one run this is exactly Gromov's d(l, l + n),
    and the best single run is what they remove. They consider no others; masks of several runs are compared here by
    the sum. With `by="block"` each removed block counts by itself.
    """

    needs: ClassVar[str] = "any"
    by: str = "run"

    def __post_init__(self) -> None:
        _criteria.check_by(self.by)

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """A sum over runs of removed blocks, from one dense pass; one term a sample."""
        return _criteria.between_states(forward, samples, _angle, self.by)


def _angle(a: Tensor, b: Tensor) -> float:
    """States (T, D) to the angle between those of the final token, over pi."""
    import math

    from torch.nn.functional import cosine_similarity

    cosine = float(cosine_similarity(a[-1].double(), b[-1].double(), dim=0))
    return math.acos(max(-1.0, min(1.0, cosine))) / math.pi
