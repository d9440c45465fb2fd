"""Differences of losses that are paired by sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.stats.same_samples import joined, paired
from pruning.core.records import item_hits


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(3.0, 1.0, 40)  # windows differ much more than masks
    first, second = hard + rng.normal(0.05, 0.02, 40), hard + rng.normal(0.0, 0.02, 40)
    found, expected = paired(first, second), stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx(float((first - second).mean()))
    assert found.low > 0, "the small difference is certain, although single losses vary by 1"
    assert found.windows == 40
    assert found.mean / found.error == pytest.approx(expected.statistic)
    one = paired(np.array([2.0]), np.array([1.5]))
    assert one.mean == pytest.approx(0.5)
    assert np.isnan([one.low, one.high]).all()


def test_windows_of_several_corpora_are_joined_unless_one_was_not_kept() -> None:
    both = joined([np.array([1.0, 2.0]), np.array([3.0])])
    assert both is not None
    assert both.tolist() == [1.0, 2.0, 3.0]
    assert joined([np.array([1.0]), None]) is None
    assert joined([]) is None


def test_hits_are_those_of_the_evaluation() -> None:
    terms: dict[str, Any] = {"loglikelihoods": [[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0]], "right": [0, 0, 0]}
    assert item_hits(terms) == pytest.approx([1.0, 0.0, 0.5])
    assert item_hits({"hits": [1.0, 0.0], "loglikelihoods": [[-1.0], [-2.0]]}) == pytest.approx([1.0, 0.0])
    assert item_hits({"losses": [2.0]}) is None
