"""Cells of different units and budgets are loaded into one frame, and kept apart in it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from analysis.data.load import load
from analysis.data.study import describe, journals
from analysis.stats import mask_overlap
from analysis.stats.grid import strata_of
from analysis.stats.regret import PROBLEM
from pruning.core.mask import Mask
from tests.helpers import analysis_grid, sublayer_grid
from tests.helpers.sublayer_grid import SublayerStudy

FEW = SublayerStudy(algos=("one_shot", "greedy"), seeds=(0,))
BLOCKS = analysis_grid.Study(
    models=("smollm2",), ratios=(0.1,), objectives=("perplexity",), algos=("one_shot", "greedy"), seeds=(0,),
    lost=0, broken=0,
)  # fmt: skip


def listed(results: Path, keys: list[str]) -> None:
    (results / "studies").mkdir(exist_ok=True)
    (results / "studies" / "mine.json").write_text(json.dumps({"study": "mine", "cells": keys}))


def changed(path: Path, *where: str, to: Any) -> None:
    record = json.loads(path.read_text())
    part = record
    for name in where[:-1]:
        part = part[name]
    part[where[-1]] = to
    path.write_text(json.dumps(record))


def test_the_frame_holds_units_and_what_was_removed(tmp_path: Path) -> None:
    keys = sublayer_grid.write(tmp_path, FEW)
    frame = load(tmp_path).set_index("cell")
    for key in keys:
        result = json.loads((tmp_path / key / "result.json").read_text())
        row = frame.loc[key]
        assert row["dropped"] == Mask.from_json(result["mask"]).dropped
        assert (row["unit"], row["n_units"], row["cost"]) == (result["config"]["unit"], 60, "parameters")
        assert row["k"] == 3 != len(row["dropped"])  # 10 % of the parameters, as 3 of 30 blocks have
        assert row["budget"] == result["search"]["budget"]
    assert journals(tmp_path, load(tmp_path)).damages == []


def test_cells_of_different_units_are_never_compared(tmp_path: Path) -> None:
    analysis_grid.write(tmp_path, BLOCKS)
    sublayer_grid.write(tmp_path, FEW)
    sublayer_grid.write(tmp_path, SublayerStudy(units=("sublayer",), ratios=(), ks=(3,), seeds=(0,)))
    timed = SublayerStudy(units=("block", "sublayer"), budget="latency", costs=(2, 3), seeds=(0,))
    sublayer_grid.write(tmp_path, timed)
    frame = load(tmp_path)
    kinds = ["", " (attention)", " (latency)", " (sublayer)", " (sublayer, counted)", " (sublayer, latency)"]
    assert strata_of(frame) == [(f"smollm2{kind}", 3) for kind in kinds]
    for _, problem in frame.groupby(PROBLEM, dropna=False):
        assert problem[["unit"]].nunique().item() == 1
        assert problem["cost"].fillna("none").nunique() == 1
    pairs = mask_overlap.pairs(frame, "algorithms")
    assert set(pairs["model"]) == {f"smollm2{kind}" for kind in kinds}
    assert "model smollm2 · units attention, block, sublayer · seed 0" in describe(frame, "mine")
    assert "only model smollm2 · units attention" in describe(frame, "mine", {"model": ("smollm2",)})


def test_budgets_of_one_size_that_differ_are_kept_apart(tmp_path: Path) -> None:
    sublayer_grid.write(tmp_path, SublayerStudy(units=("sublayer",), ratios=(0.1, 0.11, 0.2), seeds=(0,)))
    labels = {"smollm2 (sublayer, 10 %)", "smollm2 (sublayer, 11 %)", "smollm2 (sublayer)"}
    assert set(load(tmp_path)["model"]) == labels
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, costs in ((one, (2, 3)), (two, (1, 4))):
        sublayer_grid.write(
            folder, SublayerStudy(units=("sublayer",), budget="latency", costs=costs, seeds=(0,))
        )
    for cell in list(two.iterdir())[1:]:
        (one / cell.name / "result.json").write_text((cell / "result.json").read_text())
    assert set(load(one)["model"]) == {f"smollm2 (sublayer, latency, costs {i})" for i in (1, 2)}


def test_a_filter_takes_models_and_units_by_their_plain_names(tmp_path: Path) -> None:
    sublayer_grid.write(tmp_path, FEW)
    assert len(load(tmp_path, only={"model": ["smollm2"]})) == 4
    assert set(load(tmp_path, only={"unit": ["attention"]})["model"]) == {"smollm2 (attention)"}


def test_a_missing_cell_has_the_unit_of_the_models_other_cells(tmp_path: Path) -> None:
    keys = sublayer_grid.write(tmp_path, SublayerStudy(units=("sublayer",), seeds=(0,), lost=1))
    listed(tmp_path, keys)
    frame = load(tmp_path, "mine")
    assert list(frame["status"]) == ["missing", "done", "done"]
    assert set(frame["model"]) == {"smollm2 (sublayer)"}
    assert set(frame["k"]) == {3}


def test_a_missing_cell_that_can_have_several_units_has_none(tmp_path: Path) -> None:
    keys = sublayer_grid.write(tmp_path, SublayerStudy(seeds=(0,), lost=1))
    counted = sublayer_grid.write(
        tmp_path, SublayerStudy(units=("mlp",), ratios=(), ks=(4,), seeds=(0,), lost=1)
    )
    listed(tmp_path, keys + counted)
    models = load(tmp_path, "mine").set_index("cell")["model"]
    assert models[keys[0]] == "smollm2 (unknown unit)"  # by its ratio, it can be of either
    assert models[counted[0]] == "smollm2 (mlp, counted)"  # by its k, it can only be one of the others


@pytest.mark.parametrize(
    ("where", "to", "reason"),
    [
        (("config", "unit"), "head", "its unit is 'head'"),
        (("config", "unit"), "block", "over units (sublayer) that are not those of unit=block"),
        (("mask", "dropped"), ["c3"], "'c3' names no sub-layer"),
        (("search", "budget"), None, ""),
        (("search", "budget", "costs"), [1, 2], "its budget is not one of its units"),
        (("search",), {"k": 3, "ratio": 0.1}, "it lacks 'budget'"),
    ],
)
def test_a_result_whose_units_do_not_fit_is_damaged(
    where: tuple[str, ...], to: Any, reason: str, tmp_path: Path
) -> None:
    keys = sublayer_grid.write(tmp_path, FEW)
    changed(tmp_path / keys[0] / "result.json", *where, to=to)
    row = load(tmp_path).set_index("cell").loc[keys[0]]
    assert row["status"] == "damaged"
    assert reason in row["damage"]


def compensated(results: Path, name: str | None) -> list[str]:
    """Write the cells of BLOCKS with a compensation, or without this setting as early versions did."""
    keys = analysis_grid.write(results, BLOCKS)
    for key in keys if name else ():
        path = results / key / "result.json"
        result = json.loads(path.read_text())
        result["config"]["compensation"] = {"option": name.lower(), "class": name}
        new = f"{key[:-8]}{hashlib.sha256(f'{key} {name}'.encode()).hexdigest()[:8]}"
        (results / key).rename(results / new)
        (results / new / "result.json").write_text(json.dumps(result | {"cell": new}))
    return keys


def test_masks_with_and_without_repair_are_never_pooled(tmp_path: Path) -> None:
    for name in ("NoCompensation", "Linear", "Magnitude", None):
        compensated(tmp_path, name)
    frame = load(tmp_path)
    labels = ["smollm2", "smollm2 (linear)", "smollm2 (magnitude)"]
    assert strata_of(frame) == [(label, 3) for label in labels]
    assert set(frame.loc[frame["model"] == "smollm2", "compensation"]) == {"none"}
    assert set(load(tmp_path, only={"compensation": ["linear"]})["model"]) == {"smollm2 (linear)"}
    assert "compensations linear, magnitude, none" in describe(frame, "mine")


def test_a_missing_cell_has_the_compensation_of_all_others(tmp_path: Path) -> None:
    compensated(tmp_path, "Linear")
    (gone,) = [path for path in tmp_path.iterdir() if "greedy" in path.name and "wiki" not in path.name][:1]
    keys = [path.name for path in tmp_path.iterdir() if path.name.startswith("smollm2")]
    (gone / "result.json").unlink()
    listed(tmp_path, keys)
    assert set(load(tmp_path, "mine")["model"]) == {"smollm2 (linear)"}
    keys += compensated(tmp_path, None)
    listed(tmp_path, keys)
    assert load(tmp_path, "mine").set_index("cell")["model"][gone.name] == "smollm2 (unknown compensation)"
