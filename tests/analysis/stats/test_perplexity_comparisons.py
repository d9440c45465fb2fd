"""Ratios of perplexities: against Student's and Welch's tests of scipy; and what a study compares with what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats.perplexity_comparisons import measure, relative
from tests.helpers.analysis_grid import frame


def ratios(objectives: int = 2, data: int = 1, draws: int = 5, algos: int = 3, seed: int = 0) -> pd.DataFrame:
    """Cells whose perplexity depends on everything; a draw has the same effect in all cells."""
    grid, rng = frame(objectives=objectives, data=data, draws=draws, algos=algos), np.random.default_rng(seed)
    draw = rng.normal(0, 0.5, draws)[grid["draw"]]
    return grid.assign(ppl=np.exp(3 + draw + rng.normal(0, 0.2, len(grid))))


def side(grid: pd.DataFrame, objective: str) -> pd.DataFrame:
    return grid[grid["objective"] == objective]


def by_draw(part: pd.DataFrame) -> pd.Series:
    """The mean logarithm of each draw, over searches."""
    return np.log(part["ppl"]).groupby(part["draw"]).mean()


def test_masks_of_the_same_samples_are_paired() -> None:
    grid = ratios()
    found = relative(side(grid, "o0"), side(grid, "o1"))
    first, second = by_draw(side(grid, "o0")), by_draw(side(grid, "o1"))
    expected = stats.ttest_rel(first, second).confidence_interval()
    assert found.value == pytest.approx(np.exp((first - second).mean()))
    assert (found.low, found.high) == pytest.approx((np.exp(expected.low), np.exp(expected.high)))
    assert (found.draws, found.paired) == (5, True)


@pytest.mark.parametrize(
    "other", [{"calibration": "items", "samples": 64, "length": np.nan}, {"draw": [5, 6, 7, 8, 9]}]
)
def test_masks_of_other_samples_are_independent(other: dict[str, Any]) -> None:
    """Draws of other data with the same numbers, or other draws of the same data."""
    grid = ratios(algos=1)
    first, second = side(grid, "o0"), side(grid, "o1").assign(**other)
    found = relative(first, second)
    logs = by_draw(first), by_draw(second)
    expected = stats.ttest_ind(*logs, equal_var=False).confidence_interval()
    assert found.value == pytest.approx(np.exp(logs[0].mean() - logs[1].mean()))
    assert (found.low, found.high) == pytest.approx((np.exp(expected.low), np.exp(expected.high)))
    assert (found.draws, found.paired) == (5, False)


def test_only_common_draws_are_compared_each_of_which_counts_once() -> None:
    grid = ratios()
    first, second = side(grid, "o0"), side(grid, "o1")
    items = [part.assign(length=np.nan) for part in (first, second)]
    assert relative(*items).paired, "items without a length are the same samples"
    part = relative(first[first["draw"] < 4], second[second["draw"] > 0])
    both = (1, 2, 3)
    assert part == relative(first[first["draw"].isin(both)], second[second["draw"].isin(both)])
    assert part.draws == 3
    often = pd.concat([first, first[first["draw"] == 0], first[first["draw"] == 0]])
    assert vars(relative(often, second)) == pytest.approx(vars(relative(first, second)))


def test_differences_between_data_are_no_noise() -> None:
    """Each of two texts has five draws; the error is that of the mean of two means."""
    grid = ratios(data=2)
    means = np.log(grid["ppl"]).groupby([grid["objective"], grid["calibration"], grid["draw"]]).mean()
    apart = (means["o0"] - means["o1"]).to_numpy().reshape(2, 5)
    half = stats.t.ppf(0.975, 8) * np.sqrt((apart.var(axis=1, ddof=1) / 5).sum()) / 2
    found = relative(side(grid, "o0"), side(grid, "o1"))
    ends = np.exp([apart.mean(), apart.mean() - half, apart.mean() + half])
    assert [found.value, found.low, found.high] == pytest.approx(ends.tolist())


def test_draws_that_contain_each_other_give_no_interval() -> None:
    grid = ratios()
    few, many = (side(grid, "o0").assign(samples=n) for n in (8, 64))
    base = pd.concat([side(grid, "o1").assign(samples=n) for n in (8, 64)])
    for one, other in ((pd.concat([few, many]), base), (few, side(grid, "o1").assign(samples=64))):
        assert np.isnan(relative(one, other).low)
    assert relative(few, base).low > 0, "only the samples of one size are in common"


def test_one_draw_has_no_interval_and_equal_masks_have_an_exact_one() -> None:
    grid = ratios()
    one = grid[grid["draw"] == 0]
    found = relative(side(one, "o0"), side(one, "o1"))
    assert (np.isnan(found.low), found.draws) == (True, 1)
    same = side(grid, "o0")
    assert (relative(same, same).low, relative(same, same).high) == (1.0, 1.0)
    constant = [same.assign(ppl=value, calibration=name) for value, name in ((20.0, "a"), (10.0, "b"))]
    assert vars(relative(*constant)) == pytest.approx(
        {"value": 2.0, "low": 2.0, "high": 2.0, "draws": 5, "paired": False}
    )
    assert relative(same, same.head(0)).draws == 0


# -- all comparisons of a study ---------------------------------------------------------------------------------

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


def test_searches_are_relative_to_one_shot_and_states_to_pruned_masks_of_the_same_draws() -> None:
    grid = cells()
    healed = grid[grid["draw"] < 3].assign(state="healed", ppl=grid["ppl"] * 0.5)
    found = measure(pd.concat([grid, healed]))
    rows = found.searches.query("state == 'pruned'").set_index(["objective", "algo"])
    assert len(rows) == 6
    for objective, algo in rows.index:
        own = grid[grid["objective"] == objective]
        expected = relative(own[own["algo"] == algo], own[own["algo"] == "one_shot"])
        assert tuple(rows.loc[(objective, algo), list(vars(expected))]) == tuple(vars(expected).values())
    assert len(found.states) == 9
    assert set(found.states["draws"]) == {3}
    assert found.states[["value", "low", "high"]].to_numpy() == pytest.approx(0.5)


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
