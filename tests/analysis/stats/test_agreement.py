"""Rank correlations, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.stats.agreement import spearman

X = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0])
Y = np.array([2.0, 7.0, 1.0, 8.0, 2.0, 8.0, 1.0])


def test_the_statistic_equals_scipy() -> None:
    expected = stats.spearmanr(X, Y).statistic
    assert spearman(np.array([X, Y]), np.array([Y, Y])) == pytest.approx([expected, 1.0])
