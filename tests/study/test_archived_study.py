"""The archived study stays readable, its cells are found done, and its figures keep their numbers."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pandas as pd
import pytest
import yaml

from analysis.data import archive
from analysis.figures import fig1_masks, outcome_tables
from pruning.config.app import launch_words
from pruning.config.compose import recorded_cell
from pruning.core.records import read_done
from pruning.evaluation.heldout import LocalFiles
from pruning.export.pipeline import export_cell
from pruning.launcher.cell_state import finished
from pruning.runs.cell import Cell
from tests.helpers.exports import EQUAL

ARCHIVE = Path(__file__).parents[2] / "analysis" / "small" / "small.tar.xz"
CELLS = 696
# The digests of the files that the study was run with: a cell identifies files by digest, not by path.
ITEMS = {"data/commonsense170k_part.json": "581c39fbf1af889c046541e30908e715536b0158f276ec34a5c98c652c6755f6"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archived study, laid out as a results folder."""
    folder = tmp_path_factory.mktemp("small")
    archive.unpack(ARCHIVE, folder)
    return folder


@pytest.fixture(autouse=True)
def files_are_as_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in ITEMS:
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text("[]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pruning.runs.cell._file_digest", lambda path: ITEMS.get(path, path))


def folders(study: Path) -> list[Path]:
    return sorted(path.parent for path in study.glob("*/result.json"))


def cell_of(folder: Path, results: Path) -> Cell:
    """The cell that the recorded configuration describes, in this results folder."""
    return recorded_cell({**read_done(folder)["config"], "paths": {"results": str(results)}})


@pytest.mark.slow
def test_every_cell_keeps_its_key_and_is_found_done(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = folders(study)
    assert len(cells) == CELLS
    for folder in cells:
        done = read_done(folder)
        files = done["evaluation"].get("files", {})
        monkeypatch.setattr(
            "pruning.launcher.cell_state.digests_of",
            lambda asked, files=files: files if isinstance(asked, LocalFiles) else {},
        )
        cell = cell_of(folder, study)
        assert cell.key == folder.name
        assert finished(cell) == done


def test_a_cell_of_another_evaluation_is_not_found_done(study: Path) -> None:
    cell = cell_of(folders(study)[0], study)
    other = recorded_cell(dict(cell.config) | {"eval": {**cell.config["eval"], "window": 64}})
    assert finished(other) is None


FIGURES = (fig1_masks.FIGURE, outcome_tables.TABLE1, outcome_tables.TABLE2, outcome_tables.TABLE3)
# The CSV files of the whole study as commit 6485913 drew them, when results held import paths and nothing else was
# read. Figures whose numbers are logarithms or permutations are left out: their last digit depends on the CPU.
BEFORE = {
    "fig1_masks.csv": "d98a973ebbfe904f482f91c556be70d2af67554353185fe6bc33809c14a1592a",
    "table1_accuracy.csv": "6d0bccb865ce635993a7c85337e453842107f31e3011a4722b64f6a81e3cad3b",
    "table2_perplexity.csv": "9824a1f3326b178beb439f26c9eda4b362bba3cd9f037cddee498bde02b56571",
    "table3_search.csv": "47cc56d3d5c1a43e4a6d42b9c562dfac6e27c924809778684a3379ed4f88daeb",
}


@pytest.mark.slow
def test_numbers_are_those_that_were_drawn_before(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["figure", "--results", str(study), "--study", "small", "--out", str(tmp_path / "now")]
    monkeypatch.setattr("sys.argv", words)
    for figure in FIGURES:
        figure()
    drawn = {name: as_before((tmp_path / "now" / name).read_bytes(), name) for name in BEFORE}
    assert {name: hashlib.sha256(csv).hexdigest() for name, csv in drawn.items()} == BEFORE


# Columns that came later, such as logarithms, and the keys of cells, which have changed.
LATER = {
    "fig1_masks.csv": ["cell"],
    "table2_perplexity.csv": ["geometric", "factor"],
    "table3_search.csv": ["seconds_alone"],
}


def as_before(csv: bytes, name: str) -> bytes:
    """The columns that the file had before, as they are written."""
    table = pd.read_csv(io.BytesIO(csv), dtype=str, keep_default_na=False)
    table = table.drop(columns=LATER.get(name, []))
    # Figure 1 lists cells by their keys.
    return (table.sort_values([*table]) if "fig1" in name else table).to_csv(index=False).encode()


@pytest.fixture
def greedy(study: Path) -> Path:
    return next(f for f in folders(study) if f.name.startswith("smollm2-perplexity-greedy-r0.1-s0"))


def test_the_command_that_repeats_a_cell_uses_option_names(greedy: Path) -> None:
    words = launch_words(yaml.safe_load((greedy / "config.yaml").read_text(encoding="utf-8")))
    assert words[:2] == ["model=smollm2", "objective=perplexity"]
    assert "algo=greedy" in words
    assert not [word for word in words if "pruning." in word]


@pytest.mark.model
@pytest.mark.slow
def test_a_recorded_cell_is_exported(greedy: Path, tmp_path: Path) -> None:
    lines = export_cell(greedy, tmp_path / "smaller")
    assert "(3 of 30 blocks: " in lines
    assert EQUAL in lines
