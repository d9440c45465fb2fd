"""Losses of log-likelihoods equal those computed from plain passes, one row at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pruning.core.scoring import Score
from pruning.objective import Objective
from pruning.objective.accuracy import TIE_BREAK, Accuracy, miss
from pruning.objective.answer import Answer
from pruning.objective.choice import Choice, surprise
from pruning.objective.margin import Margin
from pruning.objective.perplexity import Perplexity
from pruning.search.decide import compare
from tests.helpers.objectives import MASKS, bound, model, samples, scores
from tests.helpers.rows import plain

Term = Callable[
    [np.ndarray, int], float
]  # of an item, from the scores of its answers and the right one's number


def gap(s: np.ndarray, right: int) -> float:
    return float(np.delete(s, right).mean() - s[right])


TERMS: list[tuple[Objective, Term]] = [
    (Answer(), lambda s, right: -s[right]),
    (Margin(), gap),
    (Choice(), lambda s, right: -math.log(np.exp(s[right]) / np.exp(s).sum())),
    (Accuracy(), lambda s, right: float(s.argmax() != right) + TIE_BREAK * gap(s, right)),
]


@pytest.mark.parametrize(("objective", "term"), TERMS, ids=[type(one).__name__ for one, _ in TERMS])
@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_the_term_of_an_item_follows_from_the_scores_of_its_answers(
    name: str, objective: Objective, term: Term
) -> None:
    module, data = model(name), samples("items", 12)
    results = scores(bound(objective, module, data), MASKS[:4])
    for mask in MASKS[:4]:
        logliks = iter(plain(module, mask.dropped, data.rows))
        for unit, found in zip(data.units, results[mask].samples, strict=True):
            values = np.array([next(logliks) / (row.span[1] - row.span[0]) for row in unit])
            right = [bool(row.right) for row in unit].index(True)
            assert found == pytest.approx(term(values, right), abs=1e-12)


def test_the_answer_is_perplexity_over_right_answers() -> None:
    module, data = model(), samples("items", 12)
    right = replace(data, rows=tuple(row for row in data.rows if row.right))
    asked, text = (
        scores(bound(objective, module, given), MASKS)
        for objective, given in ((Answer(), data), (Perplexity(), right))
    )
    assert [asked[mask].samples for mask in MASKS] == [text[mask].samples for mask in MASKS]


@pytest.mark.parametrize(
    ("scores", "missed", "surprised"),
    [
        ([-1.0, -2.0], 0.0, math.log(1 + math.exp(-1))),
        ([-2.0, -1.0], 1.0, math.log(1 + math.exp(1))),
        ([-1.0] * 4, 0.75, math.log(4)),  # answers that tie share the point
        ([-2.0, -1.0, -1.0], 1.0, math.log(1 + 2 * math.exp(1))),
        ([0.0, -800.0], 0.0, 0.0),
        ([-800.0, 0.0], 1.0, 800.0),
    ],
)
def test_misses_and_surprises(scores: list[float], missed: float, surprised: float) -> None:
    assert miss(scores, 0) == missed
    assert surprise(scores, 0) == pytest.approx(surprised)


def test_the_margin_orders_ties_but_is_not_evidence() -> None:
    """The first mask has the better margin on every item, so a paired test of the raw terms would be significant."""
    estimate = bound(Accuracy(), model(), samples("items", 12)).estimate
    misses, margins = np.array([0.0, 1.0] * 6), np.random.default_rng(0).normal(-5, 1, 12)
    a, b = (misses + TIE_BREAK * (margins + worse) for worse in (0, 3))

    def score(terms: np.ndarray) -> Score:
        return Score(MASKS[1], estimate.mean(terms.tolist()), tuple(terms.tolist()), 1.0)

    assert score(a).loss < score(b).loss
    assert compare(score(a), score(b), estimate).p_value == 1.0
    assert compare(score(a), score(b + (misses == 0)), estimate).p_value < 0.01
