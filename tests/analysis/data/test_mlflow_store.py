"""An MLflow store and the folder that it mirrors give the same frame, figures and page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.data import archive
from analysis.data.archive import NothingToRead
from analysis.data.load import done, load
from analysis.data.study import trace
from pruning.core import records
from pruning.tracking.store import MLflow
from tests.helpers.analysis_grid import Study, write

SMALL = Study(("smollm2",), (0.1,), ("perplexity", "margin"), ("one_shot", "greedy"), (0, 1), lost=2)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two studies that share cells, mirrored in MLflow."""
    folder = tmp_path_factory.mktemp("results")
    keys = write(folder, SMALL)
    part = f'{{"study": "part", "cells": ["{keys[0]}", "{keys[3]}"]}}'
    (folder / "studies" / "part.json").write_text(part, encoding="utf-8")
    MLflow().record(folder, sorted(path.parent for path in folder.glob("*/result.json")))
    return folder


@pytest.fixture(scope="module")
def uri(results: Path) -> str:
    return f"sqlite:///{results / 'mlflow.db'}"


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("cell").reset_index(drop=True)


@pytest.mark.parametrize("study", ["small", "part", None])
def test_both_give_the_same_frame(results: Path, uri: str, study: str | None) -> None:
    stored = in_order(load(uri, study))
    pd.testing.assert_frame_equal(stored, in_order(load(results, study)))
    assert (stored["status"] == "failed").any() == (study != "part")
    assert (stored["status"] == "missing").any() == (study == "small")  # such cells have no run


def test_both_give_the_same_traces_and_figures(
    results: Path, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analysis.figures import fig1_masks

    for cell in done(load(results, "small"))["cell"]:
        assert trace(uri, cell) == trace(results, cell) != []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fig1_masks", "--results", uri, "--study", "small"])
    fig1_masks.FIGURE()
    assert (tmp_path / "figures" / "fig1_masks.png").exists()


def test_a_run_that_lost_its_result_is_shown_as_missing(
    results: Path, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    lost = load(results, "small")["cell"][0]
    plain = MlflowClient.list_artifacts

    def lacking(client: MlflowClient, run: str, path: str | None = None) -> list[Any]:
        artifacts = plain(client, run, path)
        gone = client.get_run(run).data.tags["cell"] == lost
        return [artifact for artifact in artifacts if not (gone and artifact.path == "result.json")]

    monkeypatch.setattr(MlflowClient, "list_artifacts", lacking)
    archive.copy(uri, tmp_path)
    frame, before = load(tmp_path, "small"), load(results, "small")
    assert len(frame) == len(before)
    gone, never = (set(cells["cell"][cells["status"] == "missing"]) for cells in (frame, before))
    assert gone - never == {lost}


@pytest.mark.parametrize(
    ("address", "reason"),
    [("sqlite:///{}/empty.db", "there is no MLflow database"), ("nosuch://host", "'nosuch'")],
)
def test_an_unreadable_store_is_named(address: str, reason: str, tmp_path: Path, uri: str) -> None:
    with pytest.raises(NothingToRead, match=reason):
        archive.copy(address.format(tmp_path), tmp_path / "a")
    with pytest.raises(NothingToRead, match="'other'"):
        archive.copy(uri, tmp_path / "b", "other")


def test_which_names_are_stores() -> None:
    names = ["sqlite:////data/mlflow.db", "http://host:5000", "results", "C:/results", Path("sqlite:///x")]
    assert [archive.is_store(name) for name in names] == [True, True, False, False, False]


def test_the_analysis_imports_neither_torch_nor_mlflow() -> None:
    """Import all modules of the package in a new interpreter."""
    code = (
        "import importlib, pkgutil, sys, analysis\n"
        "for m in pkgutil.walk_packages(analysis.__path__, 'analysis.'): importlib.import_module(m.name)\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'torch', 'transformers', 'mlflow', 'hydra'}))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


class Experiment:
    """A fake client that stores tags with MLflow's limit on their length."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}

    def get_experiment(self, _: str) -> Experiment:
        return self

    def set_experiment_tag(self, _: str, tag: str, value: str) -> None:
        assert len(value) <= 5000  # MLflow's limit
        self.tags[tag] = value


def test_a_long_list_of_cells_is_recorded_in_several_tags_and_grows(tmp_path: Path) -> None:
    client = Experiment()
    cells = [f"smollm2-perplexity-fast_block_select-r0.1-s{i}-{i:08x}" for i in range(600)]
    path = tmp_path / "studies" / "a study.of-mine.json"
    path.parent.mkdir()
    for part in (cells[:300], cells[200:]):  # another folder lists another part of the cells
        path.write_text(json.dumps({"cells": part}), encoding="utf-8")
        records.record_studies(client, "1", tmp_path)
    found = records.read_studies(client.tags | {"mlflow.note": "text", "study": "plain"})
    assert found == {"a study.of-mine": cells}
    assert len(client.tags) > 5
