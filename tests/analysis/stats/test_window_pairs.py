"""Paired differences of held-out losses, window by window."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.stats.stability import joined, paired


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(3.0, 1.0, 40)  # windows differ much more than masks
    first, second = hard + rng.normal(0.05, 0.02, 40), hard + rng.normal(0.0, 0.02, 40)
    found = paired(first, second)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(float((first - second).mean()))
    assert found.low > 0, "the small difference is certain, although single losses vary by 1"
    assert found.windows == 40
    assert found.mean / found.error == pytest.approx(stats.ttest_rel(first, second).statistic)


def test_one_window_has_no_interval() -> None:
    found = paired(np.array([2.0]), np.array([1.5]))
    assert found.mean == pytest.approx(0.5)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    samples = [paired(rng.normal(0.1, 1.0, 16), rng.normal(0.0, 1.0, 16)) for _ in range(2000)]
    covered = np.mean([found.low <= 0.1 <= found.high for found in samples])
    assert 0.93 < covered < 0.97


def test_windows_of_several_corpora_are_joined_unless_one_was_not_kept() -> None:
    both = joined([np.array([1.0, 2.0]), np.array([3.0])])
    assert both is not None
    assert both.tolist() == [1.0, 2.0, 3.0]
    assert joined([np.array([1.0]), None]) is None
    assert joined([]) is None
