"""The two losses of answers beside the margin, against sums over plain passes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pruning.objective.likelihood import Answer, Choice, Perplexity, surprise
from tests.helpers.objectives import MASKS, bound, model, samples, scores
from tests.helpers.rows import plain


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_terms_equal_those_of_plain_passes(name: str) -> None:
    module, data = model(name), samples("items", 12)
    answer, choice = (scores(bound(objective, module, data), MASKS) for objective in (Answer(), Choice()))
    for mask in MASKS[:4]:
        logliks = iter(plain(module, mask.dropped, data.rows))
        for unit, alone, among in zip(data.units, answer[mask].samples, choice[mask].samples, strict=True):
            values = np.array([next(logliks) / (row.span[1] - row.span[0]) for row in unit])
            right = [bool(row.right) for row in unit].index(True)
            assert alone == pytest.approx(-values[right], abs=1e-12)
            assert among == pytest.approx(-math.log(np.exp(values[right]) / np.exp(values).sum()), abs=1e-12)


def test_the_answer_is_perplexity_over_right_answers() -> None:
    module, data = model(), samples("items", 12)
    right = replace(data, rows=tuple(row for row in data.rows if row.right))
    asked, text = (
        scores(bound(Answer(), module, data), MASKS),
        scores(bound(Perplexity(), module, right), MASKS),
    )
    assert [asked[mask].samples for mask in MASKS] == [text[mask].samples for mask in MASKS]


@pytest.mark.parametrize(
    ("scores", "expected"), [([-1.0, -1.0, -1.0], math.log(3)), ([0.0, -800.0], 0.0), ([-800.0, 0.0], 800.0)]
)
def test_a_clear_answer_adds_nothing_and_a_clearly_wrong_one_its_distance(
    scores: list[float], expected: float
) -> None:
    assert surprise(scores, 0) == pytest.approx(expected)
