"""Objectives are compared over the searches that all of them have finished."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.stats.crossed import matrix
from analysis.stats.grid import DIFFERENT, compared
from analysis.stats.outcome_errors import differences
from tests.helpers.analysis_grid import frame


def grid() -> pd.DataFrame:
    return frame(objectives=2, data=1, draws=3, algos=2)


def test_a_complete_grid_is_kept_whole() -> None:
    cells, note = compared(grid())
    pd.testing.assert_frame_equal(cells, grid())
    assert note == ""


def test_a_search_that_one_objective_lacks_is_no_effect_of_the_objective() -> None:
    cells = grid()
    cells = cells[~((cells["objective"] == "o0") & (cells["algo"] == "algo1"))].reset_index(drop=True)
    values = 20.0 + 4.0 * (cells["algo"] == "algo1") + 0.01 * cells["draw"]
    found = matrix(cells, {"ppl/a": values}).set_index("objective")
    assert found["mean"].tolist() == pytest.approx([20.01, 20.01])
    assert set(found["note"]) == {"without algo1, which not every objective has"}
    assert differences(cells, {"ppl/a": values})["worse"].abs().max() == 0.0


def test_draws_that_lack_a_search_are_left_out_unless_no_draw_is_complete() -> None:
    cells = grid()
    lacking = (cells["objective"] == "o0") & (cells["algo"] == "algo1") & (cells["draw"] == 2)
    kept, note = compared(cells[~lacking])
    assert note == "without draws that some search lacks"
    assert sorted(kept.loc[kept["objective"] == "o0", "draw"]) == [0, 0, 1, 1]
    assert (kept["objective"] == "o1").sum() == 6
    apart = (cells["objective"] == "o0") & ((cells["algo"] == "algo1") == (cells["draw"] == 0))
    assert len(compared(cells[~apart])[0]) == len(cells[~apart])


def test_without_a_common_search_nothing_is_judged() -> None:
    cells = grid()
    cells = cells[(cells["objective"] == "o0") == (cells["algo"] == "algo0")].reset_index(drop=True)
    assert compared(cells)[1] == DIFFERENT
    table = differences(cells, {"acc/a": pd.Series(np.arange(len(cells)), dtype=float)})
    assert table["worse"].isna().all()
