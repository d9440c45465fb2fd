"""Rank correlations and their p-values: against scipy, enumeration and published tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from analysis.stats.agreement import agree, all_negative, concordance, controlled, most

NOT = float("nan")
X = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0])
Y = np.array([2.0, 7.0, 1.0, 8.0, 2.0, 8.0, 1.0])


@pytest.mark.parametrize(
    ("method", "library"),
    [("spearman", stats.spearmanr), ("kendall", stats.kendalltau), ("weighted", stats.weightedtau)],
)
def test_statistics_equal_scipy(method: str, library: object) -> None:
    assert agree(X, Y, method).statistic == pytest.approx(library(X, Y).statistic)  # type: ignore[operator]
    assert agree(np.append(X, NOT), np.append(Y, 1.0), method) == agree(X, Y, method), "NaN is left out"


def test_exact_p_by_enumeration() -> None:
    x, y = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([2.0, 1.0, 4.0, 3.0, 5.0])
    agreed = agree(x, y)
    every = [stats.spearmanr(x, p).statistic for p in itertools.permutations(y)]
    assert agreed.exact
    assert agreed.p == pytest.approx(np.mean(np.abs(every) >= abs(agreed.statistic) - 1e-12))
    x, y = np.arange(7.0), np.array([1.0, 0, 3, 2, 6, 5, 4])
    assert agree(x, y, "kendall").p == pytest.approx(stats.kendalltau(x, y, method="exact").pvalue)


def test_many_pairs_go_by_monte_carlo() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    agreed = agree(x, y)
    assert not agreed.exact
    assert agreed.p == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.005)
    assert agreed.low < agreed.statistic < agreed.high


def test_refusals_say_why() -> None:
    assert "3 pairs; at least 4" in agree([1, 2, 3], [1, 2, 3]).note
    assert np.isnan(agree([1, 2, 3], [1, 2, 3]).p)
    assert "constant" in agree([1, 1, 1, 1], [1, 2, 3, 4]).note
    assert "1 rankings of 3 items" in concordance([[1, 2, 3]]).note
    assert "constant" in concordance([[1, 1, 1], [2, 2, 2]]).note


def test_p_values_are_uniform_without_an_effect() -> None:
    rng = np.random.default_rng(1)
    p_values = [agree(*rng.normal(size=(2, 6))).p for _ in range(200)]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.09
    assert 0.4 < np.mean(p_values) < 0.62


def test_kendalls_w_of_a_published_table() -> None:
    # Siegel and Castellan (1988), table 9.7: three executives rank six applicants; W = 0.16.
    table = [[1, 6, 3, 2, 5, 4], [1, 5, 6, 4, 2, 3], [6, 3, 2, 5, 4, 1]]
    concordant = concordance(table)
    sums = np.sum(table, axis=0)
    by_definition = 12 * np.sum((sums - sums.mean()) ** 2) / (9 * (6**3 - 6))
    assert concordant.w == pytest.approx(by_definition)
    assert round(concordant.w, 2) == 0.16
    assert concordant.p > 0.3
    equal = concordance([[1, 2, 3, 4, 5]] * 4)
    assert equal.w == pytest.approx(1.0)
    assert equal.p < 0.01


def test_false_discoveries_are_controlled_as_by_hand() -> None:
    # Benjamini and Hochberg's rule on four p-values; the NaN is not a test.
    adjusted = controlled([0.01, 0.04, NOT, 0.03, 0.5])
    assert adjusted == pytest.approx([0.04, 0.04 * 4 / 3, NOT, 0.04 * 4 / 3, 0.5], nan_ok=True)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([True, True, None], True),
        ([False, False, False, True], False),
        ([True, True, False, False], None),
        ([False, None, None], None),
        ([], None),
    ],
)
def test_most_of_all_decide_and_not_most_of_those_that_are_clear(
    sides: list[bool | None], expected: bool | None
) -> None:
    assert most(sides) is expected


def test_signs_decide_only_if_all_significant_ones_agree() -> None:
    assert all_negative([-0.9, 0.8, -0.7], [0.01, 0.3, 0.05]) is True
    assert all_negative([0.9, -0.8], [0.01, 0.3]) is False
    assert all_negative([0.9, -0.8], [0.01, 0.01]) is None
    assert all_negative([-0.9, -0.8], [0.06, 0.3]) is None
