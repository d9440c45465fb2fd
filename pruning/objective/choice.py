"""Choice: like the margin, but an item for which the right answer clearly wins adds almost nothing to the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pruning.objective import Forward, Loss, Samples
from pruning.objective.margin import of_answers


@dataclass(frozen=True)
class Choice:
    """Mean over items of -ln of the right answer's probability among the item's answers, in nats.

    With the score s of `margin.py`, the answers A and the right answer r, the term of an item is

        ln( sum over a in A of exp s(a) )  -  s(r)

    The term is 0 if the probability of r is 1, and ln |A| if all answers score equally. Source: none.
    """

    needs: ClassVar[str] = "items"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over multiple-choice items, with one term per item."""
        return of_answers(forward, samples, surprise)


def surprise(scores: Sequence[float], right: int) -> float:
    """-ln of the right answer's probability in the softmax of the scores."""
    return float(np.logaddexp.reduce(scores)) - scores[right]
