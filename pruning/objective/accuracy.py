"""Accuracy: the paper evaluates masks by it, and searches with the margin, which is smooth."""

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

    Answers that tie for the highest score share the point for a right answer, so a model that scores all answers
    equally gets the accuracy of guessing. The margin ranks masks with as many right answers, which are common on a
    small calibration set; no reported accuracy includes it. With fewer than about 50,000 items, it cannot outweigh
    one.
    """

    needs: ClassVar[str] = "items"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over multiple-choice items, with one term per item."""
        loss = of_answers(forward, samples, lambda s, right: miss(s, right) + TIE_BREAK * gap(s, right))
        return replace(loss, estimate=replace(loss.estimate, ties=TIES))


def miss(scores: Sequence[float], right: int) -> float:
    """0 if the right answer scores highest, 1 if it does not; between 0 and 1 if it shares the highest score."""
    highest = max(scores)
    return 1.0 - (scores[right] == highest) / sum(score == highest for score in scores)
