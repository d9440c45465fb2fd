"""Accuracy: the fraction of items that the pruned model answers wrongly.

Source: the accuracy of zero-shot benchmarks (lm-evaluation-harness). Here the error, 1 - accuracy, is used, so that
lower is better. The paper evaluates masks by accuracy and searches with a smooth substitute, the margin
(`margin.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from pruning.core.mask import Mask
from pruning.objective import Loss
from pruning.objective.margin import gap

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.engine.forward import Forward

TIE_BREAK = 1e-6  # weight of the margin: one nat counts as this fraction of a wrong answer
TIES = 1e-3  # if two terms differ by at most this, they differ only in the margin


@dataclass(frozen=True)
class Accuracy:
    """The fraction of wrongly answered items; the margin ranks masks with equal fractions.

    With the scores s(a) and the margin of `Margin`, the term of an item with right answer r is

        1 - [s(r) is highest] / (number of answers that score highest)  +  1e-6 * margin

    Answers that tie for the highest score share the point for a right answer, so a model that scores all answers
    equally gets the accuracy of guessing. The margin ranks masks with the same number of right answers; such ties are
    common on a small calibration set. The margin is not part of any reported accuracy. With fewer than about 50,000
    items, the margin cannot outweigh one item.
    """

    needs: ClassVar[str] = "items"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over multiple-choice items, with one term per item."""

        def terms(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
            for mask, logliks, seconds in forward.loglikelihoods(samples.rows, masks):
                answers = samples.answers(logliks)
                yield mask, [miss(s, right) + TIE_BREAK * gap(s, right) for s, right in answers], seconds

        return Loss(replace(samples.estimate(), ties=TIES), terms)


def miss(scores: Sequence[float], right: int) -> float:
    """0 if the right answer scores highest, 1 if it does not; between 0 and 1 if it shares the highest score."""
    highest = max(scores)
    return 1.0 - (scores[right] == highest) / sum(score == highest for score in scores)
