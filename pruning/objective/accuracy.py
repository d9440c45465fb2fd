"""Accuracy: how many items the pruned model answers wrongly.

Source: what zero-shot benchmarks report (lm-evaluation-harness), turned round so that lower is better. The paper
judges masks by it and searches by its smooth stand-in, the margin (`margin.py`).
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

TIE_BREAK = 1e-6  # so many wrong answers weigh as much as a nat of margin
TIES = 1e-3  # two terms that differ by no more than this differ in the margin alone


@dataclass(frozen=True)
class Accuracy:
    """The fraction of items that are answered wrongly; equal fractions are told apart by the margin.

    With the scores s(a) and the margin of `Margin`, the term of an item with right answer r is

        1 - [s(r) is highest] / (number of answers that score highest)  +  1e-6 * margin

    Answers that tie at the top share the point, so that a model that scores all alike only guesses. The second part
    orders masks that answer as many items rightly, of which a small calibration set has many; it is no part of an
    accuracy that is reported, and cannot outweigh one item of fewer than about 50,000.
    """

    needs: ClassVar[str] = "items"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """Losses over multiple-choice items; one term an item."""

        def terms(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
            for mask, logliks, seconds in forward.loglikelihoods(samples.rows, masks):
                answers = samples.answers(logliks)
                yield mask, [miss(s, right) + TIE_BREAK * gap(s, right) for s, right in answers], seconds

        return Loss(replace(samples.estimate(), ties=TIES), terms)


def miss(scores: Sequence[float], right: int) -> float:
    """0 where the right answer scores highest, 1 where it does not; in between where it shares the highest score."""
    highest = max(scores)
    return 1.0 - (scores[right] == highest) / sum(score == highest for score in scores)
