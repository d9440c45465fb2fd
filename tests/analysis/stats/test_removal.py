from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from analysis.stats import grid
from analysis.stats.mask_overlap import MaskSet
from pruning.core.mask import KINDS, Mask, Removal

CELL: dict[str, Any] = {
    "n_blocks": 6,
    "protect_first": 1,
    "protect_last": 0,
    "k": 2,
    "ratio": 0.2,
    "dropped": (2, 5),
}


@pytest.mark.parametrize("unit", KINDS)
def test_open_units_are_those_of_the_space(unit: str) -> None:
    space = Removal(None, 2, unit, first=1).space(6)
    cells = pd.DataFrame([CELL | {"unit": unit}])
    assert grid.free(6, unit, 1, 0) == space.free()
    assert list(grid.n_open(cells)) == [len(space.free())]
    assert grid.masks(cells) == [Mask(6, (2, 5), space.unit)] == [grid.mask_of(cells.iloc[0])]


def test_a_frame_without_units_is_of_blocks() -> None:
    cells = pd.DataFrame([CELL])
    assert grid.masks(cells) == [Mask(6, (2, 5))]
    assert list(grid.n_open(cells)) == [5]
    assert grid.budgets(cells) == [None]


def test_overlap_counts_units_beyond_the_number_of_blocks() -> None:
    last = CELL | {"unit": "sublayer", "dropped": (2, 11)}
    masks = MaskSet.of(pd.DataFrame([last, last | {"dropped": (3, 11)}]))
    assert list(masks.sizes) == [2, 2]
    assert list(masks.open) == [10, 10]


@pytest.mark.parametrize(
    ("unit", "cost", "label", "size", "removed"),
    [
        ("block", None, "m", "k = 2", "2 blocks removed"),
        ("block", "latency", "m (latency)", "≈ 2 blocks", "20 % of the latency removed"),
        ("sublayer", "parameters", "m (sublayer)", "≈ 2 blocks", "20 % of the parameters removed"),
        ("sublayer", None, "m (sublayer, counted)", "k = 2", "2 sub-layers removed"),
        ("mlp", "latency", "m (mlp, latency)", "≈ 2 blocks", "20 % of the latency removed, only MLPs"),
        ("attention", None, "m (attention, counted)", "k = 2", "2 attention sub-layers removed"),
        (grid.UNKNOWN, None, "m (unknown unit)", "k = 2", "2 units removed"),
    ],
)
def test_labels_and_words(unit: str, cost: str | None, label: str, size: str, removed: str) -> None:
    assert grid.label("m", unit, cost) == label
    assert grid.bare(label) == "m"
    assert grid.size(label, 2) == size
    assert grid.removed(pd.Series(CELL | {"unit": unit, "cost": cost})) == removed


def test_a_label_with_more_is_still_one_and_other_brackets_are_a_name() -> None:
    label = grid.label("m", "sublayer", "parameters", ("11 %", "costs 2"))
    assert label == "m (sublayer, 11 %, costs 2)"
    assert grid.bare(label) == "m"
    assert grid.heading(label, 1) == "m · ≈ 1 block\n(sublayer, 11 %, costs 2)"
    for name in ("m (mine)", "m (sublayer) x", "m"):
        assert grid.bare(name) == name
        assert grid.heading(name, 3) == f"{name} · k = 3"


def test_a_finished_cell_says_of_how_many() -> None:
    said = [
        grid.removed_of(pd.Series(CELL | {"unit": unit, "cost": None}))
        for unit in ("block", "sublayer", "mlp")
    ]
    assert said == ["2 of 6 blocks removed", "2 of 12 sub-layers removed", "2 of 6 MLP sub-layers removed"]


def test_the_noun_is_what_all_masks_are_over() -> None:
    frames = [pd.DataFrame({"unit": units}) for units in (["block"], ["mlp", "sublayer"], ["block", "mlp"])]
    assert [grid.noun(frame) for frame in frames] == ["blocks", "sub-layers", "units"]


@pytest.mark.parametrize(
    ("unit", "cost", "more", "label", "size"),
    [
        ("block", None, ("linear",), "m (linear)", "k = 2"),
        ("sublayer", "parameters", ("linear", "10 %"), "m (sublayer, linear, 10 %)", "≈ 2 blocks"),
        ("block", None, (grid.UNKNOWN_COMPENSATION,), "m (unknown compensation)", "k = 2"),
    ],
)
def test_labels_with_a_compensation(
    unit: str, cost: str | None, more: tuple[str, ...], label: str, size: str
) -> None:
    assert grid.label("m", unit, cost, more) == label
    assert grid.bare(label) == "m"
    assert grid.size(label, 2) == size


def test_a_models_own_parentheses_are_no_label() -> None:
    assert grid.bare("m (my linear one)") == "m (my linear one)"
    assert grid.bare("m (v2) (linear)") == "m (v2)"


def test_words_name_the_compensation() -> None:
    row = pd.Series(CELL | {"unit": "block", "compensation": "linear"})
    assert grid.removed(row) == "2 blocks removed, compensation=linear"
    assert grid.removed_of(row) == "2 of 6 blocks removed, compensation=linear"
    unknown = row.copy()
    unknown["compensation"] = grid.UNKNOWN_COMPENSATION
    assert grid.removed(unknown) == "2 blocks removed, unknown compensation"
    unknown["k"] = float("nan")
    assert grid.removed(unknown) == ""
