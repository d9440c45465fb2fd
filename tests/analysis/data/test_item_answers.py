"""The answers to single items are read for every cell, or it is said why there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from analysis.data.study import answers

TASK = "acc/heldout"


def cell(results: Path, name: str, right: list[float] | None, digest: str = "d") -> str:
    path = f"evaluation/acc-heldout-1/{name}.json"
    evaluation: dict[str, Any] = {"data": {TASK: digest}, "records": {TASK: {"pruned": path}}}
    if right is None:
        del evaluation["records"]
    else:
        kept = (results / path).with_name(f"{name}.terms.json")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"hits": right}), encoding="utf-8")
    (results / name).mkdir()
    result = {"cell": name, "status": "done", "config": {}, "evaluation": evaluation}
    (results / name / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return name


def test_answers_are_in_the_order_of_the_cells(tmp_path: Path) -> None:
    names = [cell(tmp_path, "b", [1.0, 0.0]), cell(tmp_path, "a", [0.5, 1.0])]
    found = answers(tmp_path, names, [TASK])
    np.testing.assert_array_equal(found.tasks[TASK], [[1.0, 0.0], [0.5, 1.0]])
    np.testing.assert_array_equal(found.take(np.array([1])).tasks[TASK], [[0.5, 1.0]])
    assert found.note == ""


def test_if_a_cell_lacks_answers_there_are_none(tmp_path: Path) -> None:
    found = answers(tmp_path, [cell(tmp_path, "a", [1.0]), cell(tmp_path, "b", None)], [TASK])
    assert found.tasks == {}
    assert found.note == "the answers to single items were not kept in 1 of 2 cells"


def test_cells_that_answered_other_items_cannot_be_compared(tmp_path: Path) -> None:
    names = [cell(tmp_path, "a", [1.0, 0.0]), cell(tmp_path, "b", [1.0, 0.0], digest="other")]
    assert answers(tmp_path, names, [TASK]).note == f"cells were measured on different items of {TASK}"
