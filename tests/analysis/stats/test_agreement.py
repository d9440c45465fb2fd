"""Rank correlations: against scipy, and what is refused."""

from __future__ import annotations

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
    assert agree(X, Y).low < expected < agree(X, Y).high
    assert spearman(np.array([X, Y]), np.array([Y, Y])) == pytest.approx([expected, 1.0])


def test_refusals_say_why() -> None:
    assert "3 pairs; at least 4" in agree([1, 2, 3], [1, 2, 3]).note
    assert np.isnan(agree([1, 2, 3], [1, 2, 3]).statistic)
    assert "constant" in agree([1, 1, 1, 1], [1, 2, 3, 4]).note
