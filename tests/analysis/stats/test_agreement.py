"""Rank correlations and their p-values: against scipy, enumeration and published tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from analysis.stats.agreement import agree, spearman

NOT = float("nan")
X = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0])
Y = np.array([2.0, 7.0, 1.0, 8.0, 2.0, 8.0, 1.0])


def test_the_statistic_equals_scipy() -> None:
    expected = stats.spearmanr(X, Y).statistic
    assert agree(X, Y).statistic == pytest.approx(expected)
    assert agree(np.append(X, NOT), np.append(Y, 1.0)) == agree(X, Y), "NaN is left out"
    assert spearman(np.array([X, Y]), np.array([Y, Y])) == pytest.approx([expected, 1.0])


def test_exact_p_by_enumeration() -> None:
    x, y = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([2.0, 1.0, 4.0, 3.0, 5.0])
    agreed = agree(x, y)
    every = [stats.spearmanr(x, p).statistic for p in itertools.permutations(y)]
    assert agreed.p == pytest.approx(np.mean(np.abs(every) >= abs(agreed.statistic) - 1e-12))


def test_many_pairs_go_by_monte_carlo() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    agreed = agree(x, y)
    assert agreed.p == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.005)
    assert agreed.low < agreed.statistic < agreed.high


def test_refusals_say_why() -> None:
    assert "3 pairs; at least 4" in agree([1, 2, 3], [1, 2, 3]).note
    assert np.isnan(agree([1, 2, 3], [1, 2, 3]).p)
    assert "constant" in agree([1, 1, 1, 1], [1, 2, 3, 4]).note


def test_p_values_are_uniform_without_an_effect() -> None:
    rng = np.random.default_rng(1)
    p_values = [agree(*rng.normal(size=(2, 6))).p for _ in range(200)]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.09
    assert 0.4 < np.mean(p_values) < 0.62
