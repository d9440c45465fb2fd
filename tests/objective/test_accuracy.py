from __future__ import annotations

import numpy as np
import pytest

from pruning.core.scoring import Score
from pruning.objective.likelihood import TIE_BREAK, Accuracy, miss
from pruning.search.decide import compare
from tests.helpers.objectives import MASKS, bound, model, samples, scores
from tests.helpers.rows import plain


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_terms_are_misses_plus_a_small_share_of_the_margin(name: str) -> None:
    module, data = model(name), samples("items", 12)
    results = scores(bound(Accuracy(), module, data), MASKS)
    for mask in MASKS[:4]:
        logliks = iter(plain(module, mask.dropped, data.rows))
        for unit, term in zip(data.units, results[mask].samples, strict=True):
            values = np.array([next(logliks) / (row.span[1] - row.span[0]) for row in unit])
            right = [bool(row.right) for row in unit].index(True)
            margin = np.delete(values, right).mean() - values[right]
            wrong = float(values.argmax() != right)
            assert term == pytest.approx(wrong + TIE_BREAK * margin, abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([-1.0, -2.0], 0.0),
        ([-2.0, -1.0], 1.0),
        ([-1.0, -1.0], 0.5),
        ([-1.0] * 4, 0.75),
        ([-2.0, -1.0, -1.0], 1.0),
    ],
)
def test_answers_that_tie_share_the_point(scores: list[float], expected: float) -> None:
    assert miss(scores, 0) == expected


def test_an_item_outweighs_any_margin() -> None:
    """A model with one more right answer is better, even if its margins are smaller."""
    barely = [0.0 + TIE_BREAK * -0.01] * 3 + [1.0 + TIE_BREAK * 20]
    clearly = [0.0 + TIE_BREAK * -20] * 2 + [1.0 + TIE_BREAK * 0.01] * 2
    assert sum(barely) < sum(clearly)


def test_the_margin_orders_ties_but_is_not_evidence() -> None:
    """The first mask has the better margin on every item, so a paired test of the raw terms would be significant."""
    estimate = bound(Accuracy(), model(), samples("items", 12)).estimate
    misses, margins = np.array([0.0, 1.0] * 6), np.random.default_rng(0).normal(-5, 1, 12)
    a, b = (misses + TIE_BREAK * (margins + worse) for worse in (0, 3))
    better, score = (
        Score(MASKS[i], estimate.mean(t.tolist()), tuple(t.tolist()), 1.0) for i, t in enumerate((a, b))
    )
    assert better.loss < score.loss
    assert compare(better, score, estimate).p_value == 1.0
    wrong = Score(MASKS[1], 1.0, tuple((b + (misses == 0)).tolist()), 1.0)
    assert compare(better, wrong, estimate).p_value < 0.01
