"""The report's table of continuations: ten prompts, one column per model, and a note if a file is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.report.cells import ContinuationTable, continuations
from pruning.core.records import METRIC, SHOWN


def kept(results: Path, name: str, count: int = SHOWN + 3) -> str:
    record = {
        "prompts": [f"prompt {n}" for n in range(count)],
        "texts": [f"{name} {n}" for n in range(count)],
        "greedy": [[n] for n in range(count)],
    }
    (results / f"{name}.continuations.json").write_text(json.dumps(record))
    return f"{name}.json"


def record(**paths: str) -> Any:
    return {"evaluation": {"records": {METRIC: paths}}}


def test_ten_prompts_with_a_column_for_each_model(tmp_path: Path) -> None:
    paths = {which: kept(tmp_path, which) for which in ("healed", "dense", "pruned")}
    table = continuations(tmp_path, record(**paths))
    assert table is not None
    assert table.heads == ["prompt", "nothing removed", "pruned", "healed"]
    assert len(table.rows) == SHOWN
    assert table.rows[2] == ("prompt 2", "dense 2", "pruned 2", "healed 2")


def test_cells_without_continuations_have_no_table(tmp_path: Path) -> None:
    assert continuations(tmp_path, record()) == ContinuationTable(
        note="The files of the continuations are not in the results folder."
    )
    without: Any = {"evaluation": {"records": {"ppl/heldout": {"dense": "a.json"}}}}
    assert continuations(tmp_path, without) is None
    older: Any = {"evaluation": {}}
    assert continuations(tmp_path, older) is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    paths = {which: kept(tmp_path, which) for which in ("dense", "pruned")}
    (tmp_path / "pruned.continuations.json").write_text("{")
    table = continuations(tmp_path, record(**paths))
    assert table is not None
    assert "pruned.continuations.json is damaged" in table.note
    assert table.rows == []
