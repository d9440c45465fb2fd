"""Task likelihood margin: by how much the pruned model prefers right answers to wrong ones.

Source: the paper's objective B, "the average log-likelihood gap between correct and incorrect answers", based on
PuDDing (arXiv 2502.04348, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pruning.core.scoring import mean
from pruning.objective import Forward, Loss, Samples, mapped


@dataclass(frozen=True)
class Margin:
    """Mean over items of (mean score of the wrong answers - score of the right answer), in nats per token.

    Let a_1..a_n be the tokens of an answer a to the prompt q. The score of a is its mean token log-likelihood

        s(a) = (1 / n) * sum over j of ln p(a_j | q, a_<j)

    and the term of an item with right answer r and wrong answers W is

        (1 / |W|) * sum over w in W of s(w)  -  s(r)

    A negative value means that right answers are preferred, so lower is better, as for every objective. PuDDing's
    code computes |W| times this term, so that items with many choices count more. The paper says "average", so the
    average is used here.
    """

    needs: ClassVar[str] = "items"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over multiple-choice items, with one term per item."""

        def gaps(logliks: list[float]) -> list[float]:
            return [gap(scores, right) for scores, right in samples.answers(logliks)]

        def gates(unit: str) -> np.ndarray[Any, Any]:
            """A gap is linear in the log-likelihoods, so the gradient of a gap is the gap of the gradients."""
            from pruning.engine.dense_pass import gate_gradients

            gradients = gate_gradients(forward, samples.rows, unit)
            return np.array([gaps(column) for column in gradients.T.tolist()]).T

        return Loss(
            samples.estimate(),
            lambda masks: mapped(forward.loglikelihoods(samples.rows, masks), gaps),
            gates,
        )


def gap(scores: Sequence[float], right: int) -> float:
    """The mean score of the wrong answers minus the score of the right answer."""
    wrong = [score for choice, score in enumerate(scores) if choice != right]
    return mean(wrong) - scores[right]
