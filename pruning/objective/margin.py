"""The task likelihood margin. Source: the paper's objective B, "the average log-likelihood gap between correct and
incorrect answers", based on PuDDing (arXiv 2502.04348, section 3.2).

An item is a prompt q with several answers, one of them right. The score of an answer a with tokens a_1..a_n
is the mean log-likelihood of these tokens, in nats:

    s(a) = (1 / n) * sum over j of ln p(a_j | q, a_<j)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from pruning.core.scoring import mean
from pruning.objective import Forward, Loss, Samples, mapped


@dataclass(frozen=True)
class Margin:
    """How much the model prefers wrong answers to right ones, in nats per token.

    The term of an item with right answer r and wrong answers W is

        (1 / |W|) * sum over w in W of s(w)  -  s(r)

    A negative value means that right answers are preferred, so lower is better, as for every objective.
    PuDDing's code computes |W| times this term, so items with many choices count more. The paper says
    "average", so the average is used here.
    """

    needs: ClassVar[str] = "items"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over multiple-choice items, with one term per item."""

        def gates(unit: str) -> np.ndarray[Any, Any]:
            """The gaps' gradients: the gaps of the scores' gradients, because a gap is linear in the scores."""
            from pruning.engine.dense_pass import gate_gradients

            columns = gate_gradients(forward, samples.rows, unit).T.tolist()
            return np.array([[gap(*answers) for answers in samples.answers(column)] for column in columns]).T

        return replace(of_answers(forward, samples, gap), gates=gates)


def of_answers(forward: Forward, samples: Samples, term: Callable[[Sequence[float], int], float]) -> Loss:
    """A loss: the mean over items of `term(scores of the answers, index of the right answer)`."""

    def terms(logliks: list[float]) -> list[float]:
        return [term(scores, right) for scores, right in samples.answers(logliks)]

    return Loss(samples.estimate(), lambda masks: mapped(forward.loglikelihoods(samples.rows, masks), terms))


def gap(scores: Sequence[float], right: int) -> float:
    """The mean score of the wrong answers minus the score of the right answer."""
    wrong = [score for choice, score in enumerate(scores) if choice != right]
    return mean(wrong) - scores[right]
