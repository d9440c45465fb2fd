"""Uncertainty: how much the pruned model is surer, or less sure, of the next token than the dense model is.

Source: the local, token-level objective that the paper's reviewers asked for beside its two global ones. No formula
is published; predictive entropy is the usual measure of a token's uncertainty, and its change is taken here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pruning.objective import Loss
from pruning.objective.divergence import between_distributions

if TYPE_CHECKING:
    from torch import Tensor

    from pruning.calibration.samples import Samples
    from pruning.engine.forward import Forward


@dataclass(frozen=True)
class Uncertainty:
    """Mean over scored positions of |H(pruned) - H(dense)|, in nats.

    With the next-token distributions p_t of the dense model and q_t of the pruned one, and the entropy
    H(p) = -(sum over tokens v of p(v) ln p(v))

        loss = mean over t of  | H(q_t) - H(p_t) |

    Absolute at each position, so that surer here and less sure there do not cancel. It does not see which tokens are
    predicted: a model that is as sure of other tokens loses nothing. `Divergence` sees that.
    """

    needs: ClassVar[str] = "any"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """Losses over windows or items; one term a sample."""
        return between_distributions(forward, samples, _change)


def _change(logs: Tensor, dense: Tensor) -> Tensor:
    return (_entropy(logs) - _entropy(dense)).abs()


def _entropy(logs: Tensor) -> Tensor:
    return -(logs.softmax(-1) * logs).sum(-1)
