"""What the comparisons of a study compare with what; the numbers are those of `relative`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.stats.perplexity_comparisons import measure, relative
from tests.helpers.analysis_grid import frame

NAMES = {"o0": "margin", "o1": "divergence", "o2": "perplexity"}
SEARCHES = {"algo0": "one_shot", "algo1": "greedy", "algo2": "beam"}


def cells() -> pd.DataFrame:
    """Three objectives, of which the margin has other data, and three searches; divergence is not the best one."""
    grid = frame(objectives=3, data=1, draws=4, algos=3)
    grid = grid.assign(
        objective=grid["objective"].map(NAMES), algo=grid["algo"].map(SEARCHES), state="pruned"
    )
    level = grid["objective"].map({"margin": 5.0, "divergence": 3.0, "perplexity": 2.0})
    noise = np.random.default_rng(0).normal(0, 0.1, len(grid))
    grid.loc[grid["objective"] == "margin", "calibration"] = "items"
    return grid.assign(ppl=np.exp(level + noise))


def test_objectives_are_relative_to_divergence() -> None:
    grid = cells()
    rows = measure(grid).objectives.set_index("objective")
    assert list(rows.index) == ["divergence", "margin", "perplexity"]
    assert set(rows["reference"]) == {"divergence"}
    assert rows.loc["divergence", "value"] == 1.0
    assert np.isnan(rows.loc["divergence", "low"])
    base = grid[grid["objective"] == "divergence"]
    for name, paired in (("margin", False), ("perplexity", True)):
        part = grid[grid["objective"] == name]
        expected = relative(part, base)
        assert (expected.value, expected.low, expected.paired) == (*rows.loc[name, ["value", "low"]], paired)
        assert rows.loc[name, "ppl"] == pytest.approx(np.exp(np.log(part["ppl"]).mean()))


def test_without_divergence_the_reference_is_the_best_pruned_objective() -> None:
    grid = cells().query("objective != 'divergence'")
    healed = grid.assign(state="healed", ppl=grid["ppl"] * np.where(grid["objective"] == "margin", 1e-6, 1.0))
    rows = measure(pd.concat([grid, healed])).objectives
    assert list(rows["state"]) == ["pruned"] * 2 + ["healed"] * 2
    assert set(rows["reference"]) == {"perplexity"}, "the margin is best when healed, but not when pruned"


def test_the_worst_pruned_objective_is_compared_with_the_best() -> None:
    grid = cells()
    healed = grid.assign(state="healed", ppl=grid["ppl"] * np.where(grid["objective"] == "margin", 1e-6, 1.0))
    row = measure(pd.concat([grid, healed])).extremes.iloc[0]
    best, worst = (grid[grid["objective"] == name] for name in ("perplexity", "margin"))
    assert (row["best"], row["worst"]) == ("perplexity", "margin")
    assert row[["value", "low", "high"]].tolist() == list(vars(relative(worst, best)).values())[:3]
    assert measure(best).extremes.empty


def test_objectives_are_compared_over_common_searches() -> None:
    grid = cells()
    lacking = grid[(grid["objective"] != "margin") | (grid["algo"] != "beam")]
    same = grid[grid["algo"] != "beam"]
    pd.testing.assert_frame_equal(measure(lacking).objectives, measure(same).objectives)
    apart = grid[(grid["objective"] == "margin") == (grid["algo"] == "beam")]
    assert measure(apart).objectives.empty


def test_searches_are_relative_to_one_shot_for_the_same_objective() -> None:
    grid = cells()
    rows = measure(grid).searches.set_index(["objective", "algo"])
    assert len(rows) == 6
    for objective, algo in rows.index:
        own = grid[grid["objective"] == objective]
        expected = relative(own[own["algo"] == algo], own[own["algo"] == "one_shot"])
        assert tuple(rows.loc[(objective, algo), list(vars(expected))]) == tuple(vars(expected).values())
    assert measure(grid[grid["algo"] != "one_shot"]).searches.empty


def test_states_are_relative_to_pruned_masks_of_the_same_draws() -> None:
    grid = cells()
    healed = grid[grid["draw"] < 3].assign(state="healed", ppl=grid["ppl"] * 0.5)
    rows = measure(pd.concat([grid, healed])).states
    assert len(rows) == 9
    assert set(rows["draws"]) == {3}
    assert rows[["value", "low", "high"]].to_numpy() == pytest.approx(0.5)


def test_what_has_one_draw_or_no_perplexity_is_left_out() -> None:
    grid = cells()
    one = grid[(grid["draw"] == 0) | (grid["objective"] != "margin")]
    assert list(measure(one).objectives["objective"]) == ["divergence", "perplexity"]
    assert set(measure(one).searches["objective"]) == {"divergence", "perplexity"}
    unknown = grid.assign(ppl=grid["ppl"].where(grid["algo"] != "beam"))
    assert set(measure(unknown).searches["algo"]) == {"greedy"}
    for nothing in (grid[grid["draw"] == 0], grid.drop(columns="ppl")):
        found = measure(nothing)
        assert [len(found.objectives), len(found.searches), len(found.states)] == [0, 0, 0]
