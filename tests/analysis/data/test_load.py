"""The frame of results, its metrics, the states of masks, and the answers to items."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.data.archive import NothingToRead
from analysis.data.load import choose, done, load, measured, on_same_data
from analysis.data.study import AskedStudy, answers, by_state, describe, journals
from analysis.report import summary
from analysis.report.study_data import StudyData
from analysis.stats import mask_overlap
from analysis.stats.grid import strata_of
from analysis.stats.regret import PROBLEM
from pruning.core.mask import Mask
from tests.helpers.analysis_grid import ONE, SUBLAYERS, Study, write
from tests.helpers.results import a_result


def changed(path: Path, *where: str, to: Any) -> None:
    record = json.loads(path.read_text())
    part = record
    for name in where[:-1]:
        part = part[name]
    part[where[-1]] = to
    path.write_text(json.dumps(record))


# -- names -------------------------------------------------------------------------------------------------------

PYDOC = {"class": "Text", "source": "pydoc", "path": None, "samples": 16, "length": 128, "seed": 0}
ITEMS = {"class": "Items", "source": "commonsense", "samples": 4}


def hub(path: str) -> dict[str, Any]:
    return PYDOC | {"source": "hub", "path": path}


# Calibration data, and their names in the frame. In the last four, data of one short name have several paths.
MIXED = {"option": "mixed"}
NAMES: list[tuple[dict[str, Any], str]] = [
    ({"text": PYDOC, "items": ITEMS}, "pydoc + commonsense"),
    ({"text": {"first": PYDOC, "second": hub("allenai/c4")}, "items": ITEMS}, "pydoc + c4 + commonsense"),
    (PYDOC | {"source": "file", "path": "/data/a/wiki.txt"}, "wiki"),
    ({"text": PYDOC, "items": {"source": "file", "path": "own.jsonl"}}, "pydoc + own"),
    ({"source": "commonsense170k", "path": "zwhe99/commonsense_170k"}, "commonsense170k"),
    (MIXED | {"first": PYDOC, "second": hub("a/books")}, "pydoc + a/books"),
    (MIXED | {"first": PYDOC, "second": hub("b/books")}, "pydoc + b/books"),
    (hub("a/books"), "a/books"),
    (hub("b/books"), "b/books"),
]


def copies(results: Path, *changes: dict[str, Any]) -> None:
    """Write copies of one cell, each with changes of its result."""
    (key,) = write(results, ONE)
    plain = json.loads((results / key / "result.json").read_text())
    (results / key / "result.json").unlink()
    for number, change in enumerate(changes):
        cell = f"{key[:-8]}{number:08x}"
        parts = {name: plain.get(name, {}) | part for name, part in change.items()}
        (results / cell).mkdir()
        (results / cell / "result.json").write_text(json.dumps(plain | parts | {"cell": cell}))


def test_data_are_named_by_their_parts_and_by_their_paths_if_names_are_alike(tmp_path: Path) -> None:
    drawn = [{"samples": 32, "length": 128, "seed": 0} | drawn for drawn, _ in NAMES]
    copies(tmp_path, *({"config": {"calibration": one}} for one in drawn))
    assert list(load(tmp_path)["calibration"]) == [name for _, name in NAMES]


def test_models_of_one_name_with_other_weights_are_not_pooled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = write(tmp_path, replace(ONE, seeds=(0, 1)))
    for key, revision in zip(keys, ("aaaaaaaa", "bbbbbbbb"), strict=False):
        changed(tmp_path / key / "result.json", "model", "revision", to=revision)
    name = ONE.models[0]
    assert set(load(tmp_path)["model"]) >= {f"{name}@aaaaaa", f"{name}@bbbbbb"}
    assert name in caplog.text


# -- units, budgets and compensations --------------------------------------------------------------------------

FEW = replace(SUBLAYERS, algos=("one_shot", "greedy"), seeds=(0,))
BLOCKS = replace(ONE, objectives=("perplexity",), algos=("one_shot", "greedy"))


def listed(results: Path, keys: list[str]) -> None:
    (results / "studies").mkdir(exist_ok=True)
    (results / "studies" / "mine.json").write_text(json.dumps({"study": "mine", "cells": keys}))


def test_the_frame_holds_units_and_what_was_removed(tmp_path: Path) -> None:
    keys = write(tmp_path, FEW)
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
    write(tmp_path, BLOCKS)
    write(tmp_path, FEW)
    write(tmp_path, replace(SUBLAYERS, units=("sublayer",), ratios=(), ks=(3,), seeds=(0,)))
    timed = replace(SUBLAYERS, units=("block", "sublayer"), budget="latency", costs=(2, 3), seeds=(0,))
    write(tmp_path, timed)
    frame = load(tmp_path)
    kinds = ["", " (attention)", " (latency)", " (sublayer)", " (sublayer, counted)", " (sublayer, latency)"]
    assert strata_of(frame) == [(f"smollm2{kind}", 3) for kind in kinds]
    for _, problem in frame.groupby(PROBLEM, dropna=False):
        assert problem[["unit"]].nunique().item() == 1
        assert problem["cost"].fillna("none").nunique() == 1
    i, j = mask_overlap.compared(frame, "algorithms")
    assert list(frame["model"].iloc[i]) == list(frame["model"].iloc[j])
    assert set(frame["model"].iloc[i]) == {f"smollm2{kind}" for kind in kinds}
    assert "model smollm2 · units attention, block, sublayer · seed 0" in describe(frame, "mine")
    assert "only model smollm2 · units attention" in describe(frame, "mine", {"model": ("smollm2",)})


def test_budgets_of_one_size_that_differ_are_kept_apart_and_filters_take_plain_names(tmp_path: Path) -> None:
    write(tmp_path, replace(SUBLAYERS, units=("sublayer",), ratios=(0.1, 0.11, 0.2), seeds=(0,)))
    labels = {"smollm2 (sublayer, 10 %)", "smollm2 (sublayer, 11 %)", "smollm2 (sublayer)"}
    assert set(load(tmp_path)["model"]) == labels
    write(tmp_path, replace(FEW, units=("attention",)))
    assert set(load(tmp_path, only={"model": ["smollm2"], "unit": ["attention"]})["model"]) == {
        "smollm2 (attention)"
    }


@pytest.mark.parametrize(
    ("units", "label"),
    [(("sublayer",), "sublayer"), (("sublayer", "attention"), "unknown unit")],
)
def test_a_missing_cell_has_the_unit_of_the_models_other_cells(
    units: tuple[str, ...], label: str, tmp_path: Path
) -> None:
    """By its ratio, it can be of either unit if there are two."""
    keys = write(tmp_path, replace(SUBLAYERS, units=units, seeds=(0,)))
    (tmp_path / keys[0] / "result.json").unlink()
    listed(tmp_path, keys)
    row = load(tmp_path, "mine").set_index("cell").loc[keys[0]]
    assert (row["status"], row["model"], row["k"]) == ("missing", f"smollm2 ({label})", 3)


@pytest.mark.parametrize(
    ("where", "to", "reason"),
    [
        (("config", "unit"), "head", "its unit is 'head'"),
        (("config", "unit"), "block", "unit=block"),
        (("mask", "dropped"), ["c3"], "'c3' names no sub-layer"),
        (("search", "budget"), None, ""),
        (("search", "budget", "costs"), [1, 2], "its budget "),
        (("search",), {"k": 3, "ratio": 0.1}, "it lacks 'budget'"),
    ],
)
def test_a_result_whose_units_do_not_fit_is_damaged(
    where: tuple[str, ...], to: Any, reason: str, tmp_path: Path
) -> None:
    keys = write(tmp_path, FEW)
    changed(tmp_path / keys[0] / "result.json", *where, to=to)
    row = load(tmp_path).set_index("cell").loc[keys[0]]
    assert row["status"] == "damaged"
    assert reason in row["damage"]


def compensated(results: Path, name: str | None) -> list[str]:
    """Write the cells of BLOCKS with a compensation, or without this setting as early versions did."""
    keys = write(results, BLOCKS)
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


# -- the same held-out data ------------------------------------------------------------------------------------


def test_values_on_other_data_are_left_out_for_each_model() -> None:
    cells = pd.DataFrame(
        {
            "model": ["a", "a", "a", "b", "a"],
            "data": [
                {"ppl/x": "1", "acc/y": "7"},
                {"ppl/x": "1"},
                {"ppl/x": "2", "acc/y": "7"},
                {"ppl/x": "2"},
                None,
            ],
            "pruned/ppl/x": [10.0, 11.0, 99.0, 12.0, 13.0],
            "pruned/ppl/x/stderr": [1.0, 1.0, 9.0, 1.0, 1.0],
            "pruned/acc/y": [0.5, np.nan, 0.6, np.nan, 0.4],
            "pruned/acc_plain/y": [0.5, np.nan, 0.6, np.nan, 0.4],
        }
    )
    kept = on_same_data(cells)
    assert kept["other_data"].fillna("").tolist() == ["", "", "ppl/x", "", ""]
    assert kept["pruned/ppl/x"].fillna(-1).tolist() == [10.0, 11.0, -1.0, 12.0, 13.0]
    assert kept["pruned/ppl/x/stderr"].isna().tolist() == [False, False, True, False, False]
    assert kept["pruned/acc/y"].tolist()[2] == 0.6
    other = cells.assign(data=[{"acc/y": "7"}, None, {"acc/y": "8"}, None, {"acc/y": "8"}])
    assert np.isnan(on_same_data(other)["pruned/acc_plain/y"].iloc[0]), "it is measured on the items of acc/y"


def test_the_report_and_the_title_say_what_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, Study(("smollm2",), (0.1,), algos=("one_shot", "greedy"), seeds=(0, 1)))
    cells = done(load(tmp_path, "small"))["cell"]
    for cell in cells:
        digest = "new" if cell == cells.iloc[0] else "old"
        changed(tmp_path / str(cell) / "result.json", "evaluation", "data", to={"ppl/heldout": digest})
    frame = load(tmp_path, "small")
    assert f"1 of {len(cells)} cells measured on other held-out data" in describe(frame, "small")
    assert frame["pruned/ppl/heldout"].notna().sum() == len(cells) - 1
    refused = summary.refusals(StudyData(AskedStudy(tmp_path, "small")), [])
    assert "ppl/heldout of 1 cell " in refused.lower()


# -- metrics ---------------------------------------------------------------------------------------------------


N = np.nan
METRICS = {
    "nearly every cell has both": (
        {"a": [1.0] * 20, "b": [N] + [1.0] * 19},
        "ab",
        "mean perplexity (2 corpora)",
    ),
    "few have b": ({"a": [1.0] * 20, "b": [N] * 4 + [1.0] * 16}, "a", "perplexity (a, 1 of 2 corpora)"),
    "none is common": ({"a": [N, 1, 1, 1], "b": [1, 1, 1, N]}, "ab", "mean perplexity (2 corpora)"),
    "no cell has both": ({"a": [1, 2, 3, N, N], "b": [N, N, N, 4, 5]}, "a", "perplexity (a, 1 of 2 corpora)"),
    "cells without any do not count": ({"a": [1, N], "b": [2, N]}, "ab", "mean perplexity (2 corpora)"),
    "b was never measured": ({"a": [1, 2], "b": [N, N], "mean": [3, 3]}, "a", "perplexity (a)"),
    "two of three": ({"a": [1, 2], "b": [3, 4], "c": [N, 5]}, "ab", "mean perplexity (2 of 3 corpora)"),
}


@pytest.mark.parametrize("case", METRICS)
def test_a_mean_is_over_what_nearly_every_cell_has_and_says_what_it_leaves_out(case: str) -> None:
    columns, names, label = METRICS[case]
    cells = pd.DataFrame({f"pruned/ppl/{name}": values for name, values in columns.items()})
    chosen = choose(cells, "ppl")
    assert chosen.names == tuple(f"ppl/{name}" for name in names)
    assert chosen.label == label
    expected = np.mean([columns[name] for name in names], axis=0)  # NaN if one is lacking
    np.testing.assert_array_equal(chosen.of(cells), expected)
    assert choose(cells, "ppl", "a") == choose(cells, "ppl", "ppl/a")
    for name in ("other", "mean"):
        with pytest.raises(NothingToRead, match="Measured: ppl/a"):
            choose(cells, "ppl", name)


# -- states: repaired cells join the masks before their repair, and healed ones have rows of their own -----------

LORA = {"class": "Lora", "lr": 0.001, "seed": 0}
DENSE, PRUNED, HEALED = 17.0, 40.0, 25.0


def states(results: Path, *changes: dict[str, Any]) -> pd.DataFrame:
    """The states of copies of one cell, each with changes of its result."""
    known = {"dense": {"ppl/heldout": DENSE}, "pruned": {"ppl/heldout": PRUNED, "acc/heldout": 0.4}}
    copies(results, *({**one, "evaluation": known | one.get("evaluation", {})} for one in changes))
    cells = done(load(results))
    return by_state(cells, measured(cells))


def healed(tokens: int, **more: Any) -> dict[str, Any]:
    record = {"settings": LORA | {"tokens": tokens} | more}
    return {"heal": record, "evaluation": {"healed": {"ppl/heldout": HEALED, "acc/heldout": 0.5}}}


def test_each_state_of_a_mask_is_a_row(tmp_path: Path) -> None:
    linear = {"config": {"compensation": {"class": "Linear"}}}
    found = states(tmp_path, healed(20_000), healed(512), linear | healed(512), linear)
    repaired, few = "repaired (linear)", "healed on 512 tokens"
    expected = ["pruned", "pruned", repaired, repaired, few, f"{repaired}, {few}", "healed on 20,000 tokens"]
    assert list(found["state"]) == expected
    assert set(found["model"]) == {"smollm2"}
    assert list(found["ppl"]) == [PRUNED] * 4 + [HEALED] * 3
    assert found["acc"].tail(3).tolist() == [50.0] * 3


def test_healings_with_the_most_frequent_settings_count(tmp_path: Path) -> None:
    found = states(tmp_path, healed(512), healed(512, seed=1) | {"evaluation": {}}, healed(512, lr=0.01))
    assert list(found["state"]) == ["pruned"] * 3 + ["healed on 512 tokens"] * 2
    assert found["ppl"].isna().tolist() == [False] * 4 + [True], "one was not measured"


@pytest.mark.parametrize("changed", [False, True])
def test_the_healing_of_another_mask_is_no_state_of_this_one(changed: bool, tmp_path: Path) -> None:
    selected = healed(512)
    selected["heal"]["selection"] = {"changed": changed}
    assert list(states(tmp_path, selected)["state"]) == ["pruned", *["healed on 512 tokens"] * (not changed)]


# -- answers -----------------------------------------------------------------------------------------------------

TASK = "acc/heldout"


def answered(results: Path, name: str, right: list[float] | None, digest: str = "d") -> str:
    path = f"evaluation/acc-heldout-1/{name}.json"
    evaluation: dict[str, Any] = {"data": {TASK: digest}, "records": {TASK: {"pruned": path}}}
    if right is not None:
        kept = (results / path).with_name(f"{name}.terms.json")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"hits": right}), encoding="utf-8")
    (results / name).mkdir()
    result = a_result(cell=name) | {"evaluation": evaluation}
    (results / name / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return name


def test_answers_are_in_the_order_of_the_cells(tmp_path: Path) -> None:
    names = [answered(tmp_path, "b", [1.0, 0.0]), answered(tmp_path, "a", [0.5, 1.0])]
    found, note = answers(tmp_path, names, [TASK])
    np.testing.assert_array_equal(found[TASK], [[1.0, 0.0], [0.5, 1.0]])
    assert note == ""


@pytest.mark.parametrize(
    ("second", "digest", "note"),
    [(None, "d", "not kept in 1 of 2 cells"), ([1.0, 0.0], "other", f"different items of {TASK}")],
)
def test_answers_that_are_lacking_or_to_other_items_are_refused(
    second: list[float] | None, digest: str, note: str, tmp_path: Path
) -> None:
    names = [answered(tmp_path, "a", [1.0, 0.0]), answered(tmp_path, "b", second, digest)]
    found, said = answers(tmp_path, names, [TASK])
    assert found == {}
    assert said.endswith(note)
