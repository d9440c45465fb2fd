"""Accuracy: the fraction of items that the pruned model answers wrongly.

Source: the accuracy of zero-shot benchmarks (lm-evaluation-harness), as the error, 1 - accuracy. The paper evaluates
masks by accuracy and searches with a smooth substitute, the margin (`margin.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pruning.objective import Forward, Loss, Samples, mapped
from pruning.objective.margin import gap

TIE_BREAK = 1e-6  # weight of the margin: one nat counts as this fraction of a wrong answer
TIES = 1e-3  # if two terms differ by at most this, they differ only in the margin


@dataclass(frozen=True)
class Accuracy:
    """The fraction of wrongly answered items; the margin ranks masks with equal fractions.

    With the scores s(a) and the margin of `Margin`, the term of an item with right answer r is

        1 - [s(r) is highest] / (number of answers that score highest)  +  1e-6 * margin

    Answers that tie for the highest score share the point for a right answer, so a model that scores all answers
    equally gets the accuracy of guessing. The margin ranks masks with as many right answers, which are common on a
    small calibration set; no reported accuracy includes it. With fewer than about 50,000 items, it cannot outweigh
    one.
    """

    needs: ClassVar[str] = "items"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over multiple-choice items, with one term per item."""

        def terms(logliks: list[float]) -> list[float]:
            return [miss(s, right) + TIE_BREAK * gap(s, right) for s, right in samples.answers(logliks)]

        estimate = replace(samples.estimate(), ties=TIES)
        return Loss(estimate, lambda masks: mapped(forward.loglikelihoods(samples.rows, masks), terms))


def miss(scores: Sequence[float], right: int) -> float:
    """0 if the right answer scores highest, 1 if it does not; between 0 and 1 if it shares the highest score."""
    highest = max(scores)
    return 1.0 - (scores[right] == highest) / sum(score == highest for score in scores)
