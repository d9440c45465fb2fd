"""Draws of several sizes from the same data contain each other: what is compared, and where no interval is given."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.stats import components, mask_overlap
from analysis.stats.components import shares
from analysis.stats.grid import several_sizes
from analysis.stats.mask_overlap import difference
from analysis.stats.means import CellDraws, over_draws
from analysis.stats.outcome_errors import differences
from analysis.stats.variance import plain
from tests.helpers.analysis_grid import frame, with_masks


def cells(*sizes: int, draws: int = 3) -> pd.DataFrame:
    """Two objectives that find the same mask on the same samples; every size of samples gives other masks."""
    rng, one = np.random.default_rng(0), frame(objectives=2, data=1, draws=draws, algos=2)
    parts = [one.assign(samples=size) for size in sizes]
    whole = pd.concat(parts, ignore_index=True).assign(budget=None)
    importance = rng.random((len(sizes) * draws, 30))
    samples = whole.groupby(["samples", "draw"]).ngroup().to_numpy()
    return with_masks(whole, importance[samples])


def test_objectives_are_compared_on_the_same_samples_only() -> None:
    pairs = mask_overlap.pairs(cells(8, 32, 128), "objectives")
    assert len(pairs) == 3 * 3 * 2
    assert (pairs["corrected"] == 1.0).all()


def test_objectives_that_need_other_data_are_not_compared() -> None:
    both = cells(8, 32)
    both.loc[both["objective"] == "o1", "calibration"] = "items"
    assert mask_overlap.pairs(both, "objectives").empty, (
        "draws of two data sets share no more than their number"
    )
    assert difference(both, "objectives", "draws") is None


def test_only_draws_of_one_size_give_an_interval() -> None:
    several, one = cells(8, 32, draws=6), cells(8, draws=6)
    assert several_sizes(several)
    assert not several_sizes(one)
    assert "--only samples=N" in components.refusal(several)
    assert components.refusal(one) == ""
    values = np.random.default_rng(1).normal(size=len(several))
    assert math.isnan(over_draws(values, CellDraws.of(several)).low)
    assert not math.isnan(over_draws(values[: len(one)], CellDraws.of(one)).low)
    for given, interval in ((several, False), (one, True)):
        found = difference(given, "objectives", "draws")
        assert found is not None
        assert math.isnan(found.low) != interval
        mean = mask_overlap.mean(mask_overlap.pairs(given, "draws"))
        assert math.isnan(mean.low) != interval


def test_costs_over_several_sizes_have_no_error() -> None:
    values = pd.Series(np.random.default_rng(2).normal(size=48), name="ppl")
    for given, known in ((cells(8, 32, draws=6), False), (cells(8, draws=6), True)):
        rows = differences(given, {"ppl": values[: len(given)]})
        worst = rows[rows["worse"] != 0]["errors"]
        assert len(worst) == 1
        assert math.isnan(worst.iloc[0]) != known


def test_shares_say_why_they_have_no_interval() -> None:
    several = cells(8, 32, draws=6)
    found = shares(several, plain(several, None, ["model", "k"]), ["model", "k"])
    assert "several sizes contain each other" in found.note
    assert math.isnan(found.total_ratio.low)
