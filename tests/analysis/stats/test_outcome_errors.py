"""How much worse an objective is than the best one, in standard errors of the difference."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats.outcome_errors import differences
from tests.helpers.analysis_grid import frame


def cells(draws: int = 4) -> pd.DataFrame:
    grid = frame(objectives=2, data=1, draws=draws, algos=2)
    return grid.assign(**{"pruned/acc/a": 0.5, "pruned/ppl/a": 50.0})


def row(table: pd.DataFrame, objective: str) -> pd.Series:
    return table.set_index("objective").loc[objective]


def test_objectives_on_the_same_draws_are_compared_by_paired_differences() -> None:
    grid = cells()
    hard, gap = np.array([0.0, 10.0, 20.0, 30.0]), np.array([1.0, 2.0, 3.0, 4.0])
    values = pd.Series(hard[grid["draw"]] + gap[grid["draw"]] * (grid["objective"] == "o1"))
    table = differences(grid, {"acc/a": values})
    assert (row(table, "o0")["worse"], row(table, "o0")["draws"]) == (0.0, 4)
    assert row(table, "o1")["worse"] == pytest.approx(gap.mean() / stats.sem(gap))


def test_objectives_on_other_data_are_compared_as_independent() -> None:
    grid = cells()
    grid["calibration"] = np.where(grid["objective"] == "o1", "items", "texts")
    both = {"o0": np.array([0.0, 1.0, 2.0, 3.0]), "o1": np.array([9.0, 7.0, 8.0, 8.5])}
    values = pd.Series([both[o][d] for o, d in zip(grid["objective"], grid["draw"], strict=True)])
    worse = row(differences(grid, {"acc/a": values}), "o1")["worse"]
    error = np.hypot(stats.sem(both["o0"]), stats.sem(both["o1"]))
    assert worse == pytest.approx((both["o1"].mean() - both["o0"].mean()) / error)


@pytest.mark.parametrize("logs", [False, True])
def test_the_errors_of_the_held_out_data_are_added(logs: bool) -> None:
    name = "ppl/a" if logs else "acc/a"
    grid = cells().assign(**{"pruned/ppl/a/stderr": 5.0, "pruned/acc/a/stderr": 0.03})
    values = pd.Series(np.where(grid["objective"] == "o1", 60.0, 50.0))
    table = differences(grid, {name: values}, frozenset([name] if logs else []))
    difference, each = (np.log(60 / 50), 5 / 50) if logs else (10.0, 3.0)
    assert row(table, "o1")["errors"] == pytest.approx(
        each * np.sqrt(2)
    )  # all draws are equal: no other error
    assert row(table, "o1")["worse"] == pytest.approx(difference / (each * np.sqrt(2)))


def test_a_single_draw_gives_no_error_and_an_objective_without_values_no_difference() -> None:
    one = cells(draws=1)
    assert np.isnan(row(differences(one, {"acc/a": pd.Series([1.0, 1.0, 2.0, 2.0])}), "o1")["worse"])
    grid = cells()
    lacking = pd.Series(np.where(grid["objective"] == "o1", np.nan, 1.0))
    assert np.isnan(row(differences(grid, {"acc/a": lacking}), "o1")["worse"])
    certain = pd.Series(np.where(grid["objective"] == "o1", 2.0, 1.0))
    assert np.isinf(row(differences(grid, {"acc/a": certain}), "o1")["worse"])
