"""Choice likelihood: how likely the pruned model makes the right answer among the answers of an item.

Source: none. It asks the question of the margin (`margin.py`) with a loss that is bounded: an item that is answered
clearly adds almost nothing, however large its margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pruning.objective import Forward, Loss, Samples, mapped


@dataclass(frozen=True)
class Choice:
    """Mean over items of -ln of the right answer's share among all answers, in nats.

    With the scores s(a) of `Margin`, the term of an item with answers A and right answer r is

        ln( sum over a in A of exp s(a) )  -  s(r)

    It is 0 if the right answer takes everything, and ln |A| if all answers score equally.
    """

    needs: ClassVar[str] = "items"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over multiple-choice items, with one term per item."""

        def terms(logliks: list[float]) -> list[float]:
            return [surprise(scores, right) for scores, right in samples.answers(logliks)]

        return Loss(
            samples.estimate(), lambda masks: mapped(forward.loglikelihoods(samples.rows, masks), terms)
        )


def surprise(scores: Sequence[float], right: int) -> float:
    """-ln of the right answer's share in the softmax of the scores."""
    return float(np.logaddexp.reduce(scores)) - scores[right]
