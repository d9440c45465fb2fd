"""Rank correlation, spread and regret of masks after healing: known cases, and scipy's correlation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from analysis.stats.healed import PRUNED, HealedMask, State, lost, near_best, regained, spearman, statistics
from pruning.core.mask import Mask

AFTER = State(1000, "healed")
WINDOWS = np.random.default_rng(3).normal(0, 0.2, 20)


def masks(before: list[float], after: list[float]) -> list[HealedMask]:
    found = []
    for number, (first, second) in enumerate(zip(before, after, strict=True)):
        one = HealedMask(Mask(30, (number,)), ["random"], 2.0 + WINDOWS)
        one.states[PRUNED], one.states[AFTER] = [first + WINDOWS], [second + WINDOWS]
        found.append(one)
    return found


def test_a_healing_that_two_cells_have_counts_once() -> None:
    one = HealedMask(Mask(30, (1,)))
    for samples, seed, loss in (("a", 0, 1.0), ("a", 0, 1.0), ("a", 1, 4.0), ("b", 1, 7.0)):
        one.add(AFTER, loss + WINDOWS, samples, seed)
    one.add(AFTER, None, "a", 2)
    assert len(one.states[AFTER]) == 3
    assert one.losses(AFTER) == pytest.approx(4.0 + WINDOWS)


def test_a_pruned_mask_is_the_same_for_all_calibration_samples() -> None:
    one = HealedMask(Mask(30, (1,)))
    for samples in "ab":
        one.add(PRUNED, WINDOWS, samples)
    assert len(one.states[PRUNED]) == 1


def test_masks_that_are_better_than_the_dense_model_have_neighbours() -> None:
    near = near_best(masks([1.98, 1.99, 2.01, 2.5], [2.0] * 4))
    assert [lost(one, PRUNED) for one in near] == pytest.approx([-0.02, -0.01])


def test_masks_that_keep_their_order_have_a_correlation_of_one_and_no_regret() -> None:
    (found,) = statistics(masks([3, 4, 5, 6, 7], [2.5, 3.0, 3.5, 4.0, 4.5]), 200)
    assert found.correlation.value == pytest.approx(1)
    assert found.correlation.low == pytest.approx(1)
    assert found.share.value == pytest.approx(0.5)
    assert found.share.low == pytest.approx(0.5)
    assert found.regret.value == 0
    assert found.masks == 5


def test_a_reversed_order_has_a_correlation_of_minus_one_and_a_regret() -> None:
    (found,) = statistics(masks([3, 4, 5, 6], [3.0, 2.9, 2.8, 2.7]), 200)
    assert found.correlation.value == pytest.approx(-1)
    assert found.regret.value == pytest.approx(0.3)
    assert found.regret.low <= 0.3 <= found.regret.high


def test_an_interval_covers_the_estimate_and_is_wider_with_noise() -> None:
    rng = np.random.default_rng(0)
    before = list(rng.normal(4, 1, 12))
    (near,) = statistics(masks(before, [value + 0.1 * float(rng.normal()) for value in before]), 300)
    (far,) = statistics(masks(before, [value + 1.5 * float(rng.normal()) for value in before]), 300)
    for one in (near, far):
        assert one.correlation.low <= one.correlation.value <= one.correlation.high
    assert far.correlation.high - far.correlation.low > near.correlation.high - near.correlation.low


def test_the_correlation_is_scipy_s_also_with_ties() -> None:
    first, second = np.array([1.0, 2, 2, 3, 5, 4]), np.array([2.0, 1, 3, 3, 6, 2])
    assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert np.isnan(spearman(first, np.ones(6)))


def test_three_masks_give_nothing() -> None:
    assert statistics(masks([3, 4, 5], [3, 4, 5]), 10) == []


def test_the_share_regained_is_of_the_gap_to_the_dense_model() -> None:
    (one,) = masks([4.0], [3.5])
    found = regained(one, AFTER, 100)
    assert found.value == pytest.approx(0.25)
    assert (found.low, found.high) == (pytest.approx(0.25), pytest.approx(0.25))


def test_masks_near_the_best_cost_at_most_twice_as_much() -> None:
    some = masks([3.0, 3.5, 4.0, 4.1, 9.0], [3.0, 3.0, 3.0, 3.0, 3.0])
    assert [one.mask.dropped for one in near_best(some)] == [(0,), (1,), (2,)]
    assert lost(some[1], PRUNED) == pytest.approx(1.5)
    assert lost(some[1], AFTER) == pytest.approx(1.0)
