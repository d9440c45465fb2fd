"""Which cells are compared, and what a cell removes in words and in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.stats import grid
from analysis.stats.crossed import matrix
from analysis.stats.grid import DIFFERENT, compared
from pruning.core.mask import KINDS, Mask, Removal
from tests.helpers.analysis_grid import frame

CELL: dict[str, Any] = {
    "n_blocks": 6, "protect_first": 1, "protect_last": 0, "k": 2, "ratio": 0.2, "dropped": (2, 5),
}  # fmt: skip


# -- objectives are compared over the searches that all of them have finished ------------------------------------


def objectives() -> pd.DataFrame:
    return frame(objectives=2, data=1, draws=3, algos=2)


def test_a_search_that_one_objective_lacks_is_no_effect_of_the_objective() -> None:
    cells = objectives()
    pd.testing.assert_frame_equal(compared(cells)[0], cells)
    cells = cells[~((cells["objective"] == "o0") & (cells["algo"] == "algo1"))].reset_index(drop=True)
    values = 20.0 + 4.0 * (cells["algo"] == "algo1") + 0.01 * cells["draw"]
    found = matrix(cells, {"ppl/a": values}).set_index("objective")
    assert found["mean"].tolist() == pytest.approx([20.01, 20.01])
    assert set(found["note"]) == {"without algo1, which not every objective has"}


def test_draws_that_lack_a_search_are_left_out_unless_no_draw_is_complete() -> None:
    cells = objectives()
    lacking = (cells["objective"] == "o0") & (cells["algo"] == "algo1") & (cells["draw"] == 2)
    kept, note = compared(cells[~lacking])
    assert note == "without draws that some search lacks"
    assert sorted(kept.loc[kept["objective"] == "o0", "draw"]) == [0, 0, 1, 1]
    assert (kept["objective"] == "o1").sum() == 6
    apart = (cells["objective"] == "o0") & ((cells["algo"] == "algo1") == (cells["draw"] == 0))
    assert len(compared(cells[~apart])[0]) == len(cells[~apart])
    different = cells[(cells["objective"] == "o0") == (cells["algo"] == "algo0")]
    assert compared(different)[1] == DIFFERENT


# -- what a cell removes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", KINDS)
def test_open_units_are_those_of_the_space(unit: str) -> None:
    space = Removal(None, 2, unit, first=1).space(6)
    cells = pd.DataFrame([CELL | {"unit": unit}])
    assert list(grid.n_open(cells)) == [len(space.free())]
    assert grid.masks(cells) == [Mask(6, (2, 5), space.unit)] == [grid.mask_of(cells.iloc[0])]


@pytest.mark.parametrize(
    ("unit", "cost", "more", "label", "size", "removed"),
    [
        ("block", None, (), "m", "k = 2", "2 of 6 blocks removed"),
        ("block", "latency", (), "m (latency)", "≈ 2 blocks", "20 % of the latency removed"),
        ("sublayer", "parameters", (), "m (sublayer)", "≈ 2 blocks", "20 % of the parameters removed"),
        ("sublayer", None, (), "m (sublayer, counted)", "k = 2", "2 of 12 sub-layers removed"),
        ("mlp", "latency", (), "m (mlp, latency)", "≈ 2 blocks", "20 % of the latency removed, only MLPs"),
        ("attention", None, (), "m (attention, counted)", "k = 2", "2 of 6 attention sub-layers removed"),
        (grid.UNKNOWN, None, (), "m (unknown unit)", "k = 2", "2 units removed"),
        ("block", None, ("linear",), "m (linear)", "k = 2", "2 of 6 blocks removed"),
        ("sublayer", "parameters", ("linear", "10 %"), "m (sublayer, linear, 10 %)", "≈ 2 blocks",
         "20 % of the parameters removed"),
        ("block", None, (grid.UNKNOWN_COMPENSATION,), "m (unknown compensation)", "k = 2", "2 of 6 blocks removed"),
    ],
)  # fmt: skip
def test_labels_and_words(
    unit: str, cost: str | None, more: tuple[str, ...], label: str, size: str, removed: str
) -> None:
    assert grid.label("m", unit, cost, more) == label
    assert grid.bare(label) == "m"
    assert grid.size(label, 2) == size
    assert grid.removed(pd.Series(CELL | {"unit": unit, "cost": cost})) == removed


def test_other_brackets_are_a_name() -> None:
    for name in ("m (mine)", "m (sublayer) x", "m", "m (my linear one)"):
        assert grid.bare(name) == name
    assert grid.bare("m (v2) (linear)") == "m (v2)"


def test_what_a_cell_removes_is_said_as_far_as_it_is_known() -> None:
    row = CELL | {"unit": "block", "compensation": "linear"}
    assert grid.removed(pd.Series(row)) == "2 of 6 blocks removed, compensation=linear"
    assert grid.removed(pd.Series(row | {"n_blocks": np.nan})) == "2 blocks removed, compensation=linear"
    unknown = pd.Series(CELL | {"unit": "block", "compensation": grid.UNKNOWN_COMPENSATION})
    assert grid.removed(unknown) == "2 of 6 blocks removed, unknown compensation"
    assert grid.removed(pd.Series(CELL | {"unit": "block", "k": float("nan")})) == ""


def test_the_noun_is_what_all_masks_are_over() -> None:
    frames = [pd.DataFrame({"unit": units}) for units in (["block"], ["mlp", "sublayer"], ["block", "mlp"])]
    assert [grid.noun(frame) for frame in frames] == ["blocks", "sub-layers", "units"]
