"""Accuracy. The paper evaluates masks by their accuracy but searches with the margin, which is smooth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pruning.objective import Forward, Loss, Samples
from pruning.objective.margin import gap, of_answers

TIE_BREAK = 1e-6  # weight of the margin: one nat counts as this fraction of a wrong answer
TIES = 1e-3  # if two terms differ by at most this, they differ only in the margin


@dataclass(frozen=True)
class Accuracy:
    """The fraction of wrongly answered items; the margin ranks masks with equal fractions.

    With the score s of `margin.py`, the term of an item with right answer r is

        1 - [s(r) is highest] / (number of answers that score highest)  +  1e-6 * margin

    Answers that tie for the highest score share the point for a right answer. So a model that scores all
    answers equally gets the accuracy of guessing. Masks with equal fractions are common on a small
    calibration set. With fewer than about 50,000 items, the margin cannot outweigh one more right answer. Reported
    accuracies exclude the margin.
    """

    needs: ClassVar[str] = "items"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over multiple-choice items, with one term per item."""
        loss = of_answers(forward, samples, lambda s, right: miss(s, right) + TIE_BREAK * gap(s, right))
        return replace(loss, estimate=replace(loss.estimate, ties=TIES))


def miss(scores: Sequence[float], right: int) -> float:
    """0 if only the right answer scores highest, 1 - 1/n if it is one of n answers that score highest, else 1."""
    highest = max(scores)
    return 1.0 - (scores[right] == highest) / sum(score == highest for score in scores)
