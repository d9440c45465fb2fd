"""A page of very many cells shows some of them in full, says which, and links only to those."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from analysis.data.load import load
from analysis.report import page, study_data
from tests.helpers.analysis_grid import Study, frame, write

STUDY = Study(
    models=("smollm2",),
    ratios=(0.1,),
    objectives=("margin",),
    algos=("one_shot", "greedy"),
    seeds=tuple(range(9)),
)
LIMIT = 8


def named(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.assign(cell=[f"c{i}" for i in range(len(cells))])


def test_unfinished_cells_come_first_and_then_the_first_draws_of_every_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells = named(frame(objectives=1, data=1, draws=9, algos=2))
    cells.loc[cells["draw"] == 8, "status"] = "failed"
    monkeypatch.setattr(study_data, "MOST", LIMIT)
    shown = cells[cells["cell"].isin(study_data.shown_cells(cells))]
    assert len(shown) == LIMIT
    assert set(shown.loc[shown["status"] == "failed", "algo"]) == {"algo0", "algo1"}
    done = shown[shown["status"] == "done"]
    assert done.groupby("algo")["draw"].apply(list).to_dict() == {"algo0": [0, 1, 2], "algo1": [0, 1, 2]}


def test_every_cell_is_shown_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = named(frame(objectives=1, data=1, draws=4, algos=2))
    monkeypatch.setattr(study_data, "MOST", len(cells))
    assert study_data.shown_cells(cells) == set(cells["cell"])
    assert study_data.left_out(cells) == ""


def test_the_page_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, STUDY)
    monkeypatch.setattr(study_data, "MOST", LIMIT)
    text = page.write(tmp_path, STUDY.name, tmp_path / "figures").read_text(encoding="utf-8")
    entries = set(re.findall(r'<details class="cell \w+" id="cell-([^"]+)"', text))
    cells = load(tmp_path, STUDY.name)
    assert len(cells) == 18
    assert entries == study_data.shown_cells(cells)
    assert {*re.findall(r'href="#cell-([^"]+)"', text)} == entries
    assert "Below, 8 of the 18 cells are shown in full" in text
    assert ">8 of 18 cells<" in text
    assert text.count('<td data-key="done">done</td>') == 18 - LIMIT  # in the table, without a link
