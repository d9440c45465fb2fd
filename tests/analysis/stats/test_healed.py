"""Which losses are of pruned, repaired or healed masks; rank correlation and spread in known cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.stats import healed
from analysis.stats.healed import PRUNED, REPAIRED, HealedMask, State
from pruning.core.mask import Mask

AFTER = State(1000, "healed")
WINDOWS = np.random.default_rng(3).normal(0, 0.2, 20)
# For each cell: its compensation, and the losses of its evaluation.
LOSSES = {
    "a": ("magnitude", {"pruned": 2.5, "uncompensated": 3.0}),
    "b": ("none", {"pruned": 3.0}),
    "c": ("linear", {"pruned": 2.0, "uncompensated": 3.0}),
    "d": ("linear", {"pruned": 2.2, "uncompensated": 3.0}),
}


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    def read(folder: Path) -> Any:
        return {"mask": {"n_blocks": 30, "dropped": [1]}, "calibration": {"sha256": folder.name}}

    def losses(results: Path, result: Any, metrics: Any, which: str = "pruned") -> Any:
        known = {"dense": 1.0} | LOSSES[result["calibration"]["sha256"]][1]
        return known[which] + WINDOWS

    monkeypatch.setattr(healed, "read_done", read)
    monkeypatch.setattr(healed, "window_losses", losses)
    rows = [{"cell": cell, "compensation": how} for cell, (how, _) in LOSSES.items()]
    return pd.DataFrame(rows).assign(model="m", ratio=0.2, objective="perplexity", algo="greedy")


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0]])
def test_a_repair_is_averaged_over_draws(order: list[int], cells: pd.DataFrame) -> None:
    ((one,),) = healed.healed_masks(Path("results"), cells.iloc[order], ["ppl/heldout"]).values()
    assert one.losses(PRUNED) == pytest.approx(3.0 + WINDOWS)
    assert one.losses(REPAIRED) == pytest.approx(2.1 + WINDOWS)
    assert len(one.states[REPAIRED]) == 2
    ((one,),) = healed.healed_masks(Path("results"), cells.iloc[:2], ["ppl/heldout"]).values()
    assert set(one.states) == {PRUNED}, "without such a repair there is no such state"


def test_a_healing_that_two_cells_have_counts_once() -> None:
    one = HealedMask(Mask(30, (1,)), WINDOWS)
    for samples, seed, loss in (("a", 0, 1.0), ("a", 0, 1.0), ("a", 1, 4.0), ("b", 1, 7.0)):
        one.add(AFTER, loss + WINDOWS, samples, seed)
        one.add(PRUNED, WINDOWS, samples)  # the same for all calibration samples
    one.add(AFTER, None, "a", 2)
    assert (len(one.states[AFTER]), len(one.states[PRUNED])) == (3, 1)
    assert one.losses(AFTER) == pytest.approx(4.0 + WINDOWS)


def masks(before: list[float], after: list[float]) -> list[HealedMask]:
    found = []
    for number, (first, second) in enumerate(zip(before, after, strict=True)):
        one = HealedMask(Mask(30, (number,)), 2.0 + WINDOWS, ["random"])
        one.states[PRUNED], one.states[AFTER] = [first + WINDOWS], [second + WINDOWS]
        found.append(one)
    return found


def test_masks_that_keep_their_order_have_a_correlation_of_one() -> None:
    (found,) = healed.statistics(masks([3, 4, 5, 6, 7], [2.5, 3.0, 3.5, 4.0, 4.5]), 200)
    assert (found["correlation"], found["correlation_low"]) == pytest.approx((1, 1))
    spreads = [np.std(losses, ddof=1) for losses in ([3, 4, 5, 6, 7], [2.5, 3.0, 3.5, 4.0, 4.5])]
    assert [found["spread_before"], found["spread"]] == pytest.approx(spreads)
    assert found["masks"] == 5
    assert healed.statistics(masks([3, 4, 5], [3, 4, 5]), 10) == [], "three masks are too few"


def test_a_reversed_order_has_a_correlation_of_minus_one() -> None:
    (found,) = healed.statistics(masks([3, 4, 5, 6], [3.0, 2.9, 2.8, 2.7]), 200)
    assert found["correlation"] == pytest.approx(-1)


def test_the_share_regained_is_of_the_gap_to_the_dense_model() -> None:
    (one,) = masks([4.0], [3.5])
    found = healed.regained(one, AFTER, 100)
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_masks_near_the_best_cost_at_most_twice_as_much() -> None:
    some = masks([3.0, 3.5, 4.0, 4.1, 9.0], [3.0, 3.0, 3.0, 3.0, 3.0])
    assert [one.mask.dropped for one in healed.near_best(some)] == [(0,), (1,), (2,)]
    assert (healed.lost(some[1], PRUNED), healed.lost(some[1], AFTER)) == pytest.approx((1.5, 1.0))
    better = healed.near_best(masks([1.98, 1.99, 2.01, 2.5], [2.0] * 4))  # than the dense model
    assert [healed.lost(one, PRUNED) for one in better] == pytest.approx([-0.02, -0.01])
