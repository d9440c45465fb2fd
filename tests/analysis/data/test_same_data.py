"""Cells are compared on the same held-out data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.data.load import done, load, on_same_data
from analysis.data.study import describe
from analysis.report import summary
from analysis.report.study_data import StudyData
from tests.helpers.analysis_grid import Study, write


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
        path = tmp_path / str(cell) / "result.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        record["evaluation"]["data"] = {"ppl/heldout": "new" if cell == cells.iloc[0] else "old"}
        path.write_text(json.dumps(record), encoding="utf-8")
    frame = load(tmp_path, "small")
    assert f"1 of {len(cells)} cells measured on other held-out data, which is left out" in describe(
        frame, "small"
    )
    assert frame["pruned/ppl/heldout"].notna().sum() == len(cells) - 1
    refused = " ".join(summary.refusals(StudyData(tmp_path, "small")))
    assert (
        "ppl/heldout of 1 cell was measured on other data than that of most cells: left out"
        in refused.lower()
    )
