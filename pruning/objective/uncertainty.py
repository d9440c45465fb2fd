"""Uncertainty. Source: the paper's reviewers asked for a local, token-level objective but gave no formula.

This objective is the change of the predictive entropy, the usual measure of a token's uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pruning.objective import Distributions, Forward, Loss, Samples, Tensor
from pruning.objective.divergence import between_distributions


@dataclass(frozen=True)
class Uncertainty:
    """Mean over scored positions of |H(pruned) - H(dense)|, in nats.

    p_t and q_t are the next-token distributions of the dense model and the pruned model at position t. With
    the entropy H(p) = -(sum over tokens v of p(v) ln p(v)):

        loss = mean over t of  | H(q_t) - H(p_t) |

    The absolute value is taken at each position, so that increases and decreases of entropy do not cancel. If the
    pruned model predicts other tokens with the same entropy, the loss is 0; `Divergence` measures such changes.
    """

    needs: ClassVar[str] = "any"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over windows or items, with one term per sample."""
        return between_distributions(forward, samples, _change)


def _change(pruned: Distributions, dense: Distributions) -> Tensor:
    return (pruned.entropy - dense.entropy).abs()
