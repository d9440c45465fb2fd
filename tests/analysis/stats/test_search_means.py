"""Means of searches are over the same draws, also if a cell lacks an outcome."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.stats.means import compared, means
from tests.helpers.analysis_grid import frame, with_masks


def panel() -> pd.DataFrame:
    cells = frame(objectives=1, data=1, draws=4, algos=3)
    cells = with_masks(cells, np.random.default_rng(0).random((len(cells), 30)))
    return cells.assign(
        a=cells["draw"] * 10.0, b=np.nan
    )  # the outcome of a draw is the same for all searches


def test_a_cell_without_the_outcome_removes_its_draw() -> None:
    cells = panel()
    cells.loc[(cells["algo"] == "algo1") & (cells["draw"] == 3), "a"] = np.nan
    found = means(cells, ["a"])
    assert list(found["a"]) == [10.0, 10.0, 10.0]
    assert list(found["cells"]) == [3, 3, 3]
    assert set(found["draws_note"]) == {"3 of 4 draws"}


def test_a_search_that_was_never_measured_leaves_the_others_as_they_are() -> None:
    cells = panel()
    cells.loc[cells["algo"] == "algo1", "a"] = np.nan
    cells = cells[~((cells["algo"] == "algo2") & (cells["draw"] == 3))]
    found = means(cells, ["a"]).set_index("algo")
    assert list(found.loc[["algo0", "algo2"], "a"]) == [10.0, 10.0]
    assert np.isnan(found.loc["algo1", "a"])
    assert set(found["draws_note"]) == {"3 of 4 draws"}


def test_an_outcome_that_no_cell_has_removes_nothing() -> None:
    assert len(compared(panel(), ["a", "b"])[0]) == 12
    assert set(means(panel(), ["a", "b"])["draws_note"]) == {""}
