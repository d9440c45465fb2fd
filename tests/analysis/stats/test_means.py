"""Means over calibration draws: against leaving out one draw after another, and Student's interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats.means import CellDraws, compared, means, over_draws, over_pairs
from tests.helpers.analysis_grid import frame, with_masks


def plain_mean(values: np.ndarray, first: CellDraws, second: CellDraws, left_out: int) -> float:
    """The mean without a draw; data keep their weights."""
    kept = (first.draw != left_out) & (second.draw != left_out)
    of_data = {d: first.data == d for d in np.unique(first.data)}
    return sum(own.mean() * values[kept & own].mean() for own in of_data.values())


def plain_error(values: np.ndarray, first: CellDraws, second: CellDraws) -> float:
    """The jackknife error as its definition says, one draw at a time."""
    variance = 0.0
    for data in np.unique(first.data):
        draws = np.unique(first.draw[first.data == data])
        without = np.array([plain_mean(values, first, second, d) for d in draws])
        variance += (len(draws) - 1) / len(draws) * ((without - without.mean()) ** 2).sum()
    return float(np.sqrt(variance))


@pytest.mark.parametrize("seed", range(5))
def test_the_error_is_that_of_leaving_out_one_draw_after_another(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = frame(objectives=2, data=2, draws=4, algos=3)
    cells = cells[rng.random(len(cells)) < 0.9].reset_index(drop=True)
    drawn, values = CellDraws.of(cells), rng.normal(size=len(cells))
    assert over_draws(values, drawn).error == pytest.approx(plain_error(values, drawn, drawn))
    i, j = np.nonzero(drawn.data[:, None] == drawn.data)
    first, second = (CellDraws(drawn.draw[rows], drawn.data[rows]) for rows in (i, j))
    overlaps = values[i] * values[j]
    found = over_pairs(overlaps, first, second)
    assert found.error == pytest.approx(plain_error(overlaps, first, second))
    assert (found.mean, found.draws) == (pytest.approx(overlaps.mean()), 8)


def test_one_value_per_draw_has_students_interval_whatever_the_number_of_its_cells() -> None:
    values = np.array([1.0, 4.0, 2.0, 7.0, 5.0])
    found = over_draws(values, CellDraws(np.arange(5), np.zeros(5, dtype=np.int64)))
    assert (found.low, found.high) == pytest.approx(
        stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    )
    cells = frame(objectives=1, data=1, draws=5, algos=50)
    many = over_draws(values[cells["draw"]], CellDraws.of(cells))
    assert (many.low, many.high) == pytest.approx((found.low, found.high)), "cells of a draw are alike"


def test_pairs_of_two_draws_have_no_interval() -> None:
    """All pairs of one of the data are of the same two draws, so leaving out either says nothing about that data."""
    cells = frame(objectives=1, data=2, draws=3, algos=3)
    cells = cells[(cells["calibration"] == cells["calibration"].iloc[0]) | (cells["draw"] < 2)]
    drawn = CellDraws.of(cells)
    i, j = np.nonzero((drawn.data[:, None] == drawn.data) & (drawn.draw[:, None] < drawn.draw))
    values = np.random.default_rng(0).normal(size=len(i))
    assert np.isnan(over_pairs(values, drawn.take(i), drawn.take(j)).error)
    three = drawn.data[i] == drawn.data[0]
    assert over_pairs(values[three], drawn.take(i[three]), drawn.take(j[three])).error > 0
    assert over_draws(np.arange(len(cells)), drawn).error > 0, "means over cells have one"


def test_without_two_draws_of_each_data_there_is_no_interval() -> None:
    cells = frame(objectives=1, data=2, draws=1, algos=3)
    found = over_draws(np.ones(len(cells)), CellDraws.of(cells))
    assert (found.mean, found.draws) == (1.0, 2)
    assert np.isnan([found.error, found.low, found.high]).all()
    nothing = over_draws(np.full(len(cells), np.nan), CellDraws.of(cells))
    assert np.isnan(nothing.mean)
    assert nothing.draws == 0


# -- means of searches are over the same draws, also if a cell lacks an outcome ----------------------------------


def panel() -> pd.DataFrame:
    """Three searches; outcome `a` of a draw is the same for all of them, and no cell has `b`."""
    cells = frame(objectives=1, data=1, draws=4, algos=3)
    cells = with_masks(cells, np.random.default_rng(0).random((len(cells), 30)))
    return cells.assign(a=cells["draw"] * 10.0, b=np.nan)


def test_a_cell_without_the_outcome_removes_its_draw() -> None:
    cells = panel()
    cells.loc[(cells["algo"] == "algo1") & (cells["draw"] == 3), "a"] = np.nan
    found = means(cells, ["a"])
    assert (list(found["a"]), list(found["cells"])) == ([10.0, 10.0, 10.0], [3, 3, 3])
    assert set(found["draws_note"]) == {"3 of 4 draws"}


def test_a_search_or_an_outcome_that_was_never_measured_removes_nothing() -> None:
    assert len(compared(panel(), ["a", "b"])[0]) == 12
    assert set(means(panel(), ["a", "b"])["draws_note"]) == {""}
    cells = panel()
    cells.loc[cells["algo"] == "algo1", "a"] = np.nan
    cells = cells[~((cells["algo"] == "algo2") & (cells["draw"] == 3))]
    found = means(cells, ["a"]).set_index("algo")
    assert list(found.loc[["algo0", "algo2"], "a"]) == [10.0, 10.0]
    assert np.isnan(found.loc["algo1", "a"])
    assert set(found["draws_note"]) == {"3 of 4 draws"}
