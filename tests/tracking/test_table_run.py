"""The table of published masks in MLflow: one run, replaced when the table changes, that no cell is mistaken for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.core import storage
from pruning.tracking import rebuild
from pruning.tracking.client import connect
from pruning.tracking.store import MLflow


def written(results: Path, own: float) -> Path:
    folder = results / "published"
    folder.mkdir(parents=True, exist_ok=True)
    row = {"mask": "sleb-llama2-7", "text": "c4", "published": 12.32, "one": None, "own": own}
    data = {"tolerance": 0.01, "rows": [{**row, "verdict": "unexplained"}]}
    storage.write_json(folder / "table.json", data)
    (folder / "table.csv").write_text("mask\nsleb-llama2-7\n")
    return folder


def test_the_table_is_recorded_again_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    written(results, 13.5)
    monkeypatch.setattr("sys.argv", ["track", str(results)])
    rebuild.main()
    client = connect(f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("depth-pruning").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.data.metrics["sleb-llama2-7/c4/own"] == 13.5


def test_a_table_is_one_run_and_a_new_one_replaces_it(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    tracker = MLflow()
    for own in (20.0, 13.5):
        tracker.table(results, written(results, own))
    client = connect(f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("depth-pruning").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.data.metrics == {"sleb-llama2-7/c4/published": 12.32, "sleb-llama2-7/c4/own": 13.5}
    assert run.data.params == {"tolerance": "0.01", "rows": "1"}
    assert run.data.tags["verdict unexplained"] == "1"
    assert run.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"table.csv", "table.json"}
    assert "cell" not in run.data.tags, "the analysis reads runs with this tag"
