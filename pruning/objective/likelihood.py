"""Losses of log-likelihoods: how well text is predicted, and how the right answers of items compare with wrong ones.

An item is a prompt q with several answers, one of them right. Let a_1..a_n be the tokens of an answer a. Its score is
its mean token log-likelihood, in nats:

    s(a) = (1 / n) * sum over j of ln p(a_j | q, a_<j)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from pruning.core.mask import Mask
from pruning.core.scoring import Estimate, mean
from pruning.objective import Forward, Loss, Row, Samples, Scored, mapped


@dataclass(frozen=True)
class Perplexity:
    """Token-mean negative log-likelihood of text, in nats; its exponential is the perplexity.

    Let [a, b) be the scored positions of window r, x_t the tokens of r, and n the number of scored tokens of all
    windows:

        loss = -(1 / n) * sum over r, sum over a <= t < b of ln p(x_t | x_<t)

    The term of a sample is the mean over its window's scored tokens. The first token of a window is never scored.

    Source: the paper's objective A; SLEB (arXiv 2402.09025, section 3.2); Shortened LLaMA (2402.02834).
    """

    needs: ClassVar[str] = "text"
    bounded: ClassVar[bool] = True  # whether its loss has bounds

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over text windows, with one term per window."""
        return _of_rows(forward, samples.rows, samples.estimate())


@dataclass(frozen=True)
class Answer:
    """Mean over items of -s(right answer), in nats per token. It is at least 0.

    It is the margin without the wrong answers, which are not read, and perplexity on answers instead of text: a study
    can compare it with both. Source: none.
    """

    needs: ClassVar[str] = "items"
    bounded: ClassVar[bool] = True

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over the right answers, with one term per item."""
        right = [next(row for row in unit if row.right) for unit in samples.units]
        return _of_rows(forward, right, samples.estimate())


def _of_rows(forward: Forward, rows: Sequence[Row], estimate: Estimate) -> Loss:
    """The token-mean negative log-likelihood of rows, with one term per row."""
    from pruning.engine.bounds import bounds
    from pruning.engine.head import LIKELIHOOD

    tokens = np.array([row.span[1] - row.span[0] for row in rows])

    def means(logliks: list[float]) -> list[float]:
        negative: list[float] = (-np.array(logliks) / tokens).tolist()
        return negative

    def gates(unit: str) -> np.ndarray[Any, Any]:
        from pruning.engine.dense_pass import gate_gradients

        return np.asarray(-gate_gradients(forward, rows, unit) / tokens[:, None])

    def lower(masks: Sequence[Mask]) -> Scored:
        return mapped(bounds(forward, rows, masks, LIKELIHOOD), means)

    def terms(masks: Sequence[Mask]) -> Scored:
        return mapped(forward.loglikelihoods(rows, masks), means)

    return Loss(estimate, terms, gates, lower if forward.bounds else None)


@dataclass(frozen=True)
class Margin:
    """By how much wrong answers are preferred to right ones, in nats per token: the task likelihood margin.

    The term of an item with right answer r and wrong answers W is

        (1 / |W|) * sum over w in W of s(w)  -  s(r)

    A negative value means that right answers are preferred, so lower is better, as for every objective.

    Source: the paper's objective B, "the average log-likelihood gap between correct and incorrect answers", based on
    PuDDing (arXiv 2502.04348, section 3.2). PuDDing's code computes |W| times this term, so that items with many
    choices count more. The paper says "average", so the average is used here.
    """

    needs: ClassVar[str] = "items"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over multiple-choice items, with one term per item."""

        def gates(unit: str) -> np.ndarray[Any, Any]:
            """A gap is linear in the log-likelihoods, so the gradient of a gap is the gap of the gradients."""
            from pruning.engine.dense_pass import gate_gradients

            columns = gate_gradients(forward, samples.rows, unit).T.tolist()
            return np.array([[gap(*answers) for answers in samples.answers(column)] for column in columns]).T

        return replace(_of_answers(forward, samples, gap), gates=gates)


@dataclass(frozen=True)
class Choice:
    """Mean over items of -ln of the right answer's share among all answers, in nats.

    With answers A and right answer r, the term of an item is

        ln( sum over a in A of exp s(a) )  -  s(r)

    It is 0 if the right answer takes everything, and ln |A| if all answers score equally. So it asks the question of
    the margin with a bounded loss: an item that is answered clearly adds almost nothing. Source: none.
    """

    needs: ClassVar[str] = "items"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over multiple-choice items, with one term per item."""
        return _of_answers(forward, samples, surprise)


TIE_BREAK = 1e-6  # weight of the margin: one nat counts as this fraction of a wrong answer
TIES = 1e-3  # if two terms differ by at most this, they differ only in the margin


@dataclass(frozen=True)
class Accuracy:
    """The fraction of wrongly answered items; the margin ranks masks with equal fractions.

    The term of an item with right answer r is

        1 - [s(r) is highest] / (number of answers that score highest)  +  1e-6 * margin

    Answers that tie for the highest score share the point for a right answer, so a model that scores all answers
    equally gets the accuracy of guessing. The margin ranks masks with as many right answers, which are common on a
    small calibration set; no reported accuracy includes it. With fewer than about 50,000 items, it cannot outweigh
    one. The paper evaluates masks by accuracy and searches with the margin, which is smooth.
    """

    needs: ClassVar[str] = "items"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over multiple-choice items, with one term per item."""
        loss = _of_answers(forward, samples, lambda s, right: miss(s, right) + TIE_BREAK * gap(s, right))
        return replace(loss, estimate=replace(loss.estimate, ties=TIES))


def _of_answers(forward: Forward, samples: Samples, term: Callable[[Sequence[float], int], float]) -> Loss:
    """The mean over items of `term(scores of the answers, number of the right one)`."""

    def terms(logliks: list[float]) -> list[float]:
        return [term(scores, right) for scores, right in samples.answers(logliks)]

    return Loss(samples.estimate(), lambda masks: mapped(forward.loglikelihoods(samples.rows, masks), terms))


def gap(scores: Sequence[float], right: int) -> float:
    """The mean score of the wrong answers minus the score of the right answer."""
    wrong = [score for choice, score in enumerate(scores) if choice != right]
    return mean(wrong) - scores[right]


def surprise(scores: Sequence[float], right: int) -> float:
    """-ln of the right answer's share in the softmax of the scores."""
    return float(np.logaddexp.reduce(scores)) - scores[right]


def miss(scores: Sequence[float], right: int) -> float:
    """0 if the right answer scores highest, 1 if it does not; between 0 and 1 if it shares the highest score."""
    highest = max(scores)
    return 1.0 - (scores[right] == highest) / sum(score == highest for score in scores)
