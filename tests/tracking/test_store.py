"""Stores: the file is made whole, written by one command at a time, left alone if nothing is new; and servers."""

from __future__ import annotations

import sqlite3
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest

from pruning.core import records, storage
from pruning.core.mask import Mask
from pruning.tracking import mlflow_run
from pruning.tracking.client import connect
from pruning.tracking.rebuild import record_all
from pruning.tracking.store import DATABASE, HELD, MLflow, create_store
from tests.helpers import analysis_grid
from tests.helpers.mlflow_runs import described, runs
from tests.helpers.results import a_result

KEYS = ["a", "b"]


def write(results: Path, key: str, loss: float = 1.0) -> Path:
    """A cell's result as far as it is recorded; returns the cell's folder."""
    calibration = {"dense_loss": 0.5, "standard_error": None, "samples": 4, "loss": loss}
    result = a_result(
        cell=key,
        model={"name": "tiny"},
        mask=Mask(6, (1,)).to_json(),
        calibration=calibration,
        search={"k": 1, "evaluations_asked": 6.0, "evaluations_paid": 6.0, "seconds": 1.0},
        config={"study": "mine", "model": {"name": "tiny"}, "k": 1},
    )
    storage.write_json(results / key / "result.json", result)
    return results / key


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with two recorded cells of one study."""
    folder = tmp_path_factory.mktemp("recorded")
    cells = [write(folder, key) for key in KEYS]
    records.write_study(folder, "mine", KEYS)
    MLflow().record(folder, cells)
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The results folders whose store was opened through MLflow."""
    folders: list[Path] = []
    original = MLflow._open
    monkeypatch.setattr(
        MLflow, "_open", lambda self, folder: (folders.append(folder), original(self, folder))[1]
    )
    return folders


def record(results: Path, *keys: str) -> Any:
    """Record cells; returns what the store then says of every run."""
    MLflow().record(results, [results / key for key in keys or KEYS])
    uri = f"sqlite:///{results / DATABASE}"
    return {cell: described(uri, run) for cell, run in runs(uri).items()}


def test_what_is_recorded_is_not_recorded_again(results: Path, opened: list[Path]) -> None:
    short = record(results)
    assert not opened
    (results / HELD).unlink()
    assert record(results) == short, "the plain way changes nothing either"
    assert opened == [results]


def execute(results: Path, statement: str) -> None:
    with closing(sqlite3.connect(results / DATABASE)) as database:
        database.execute(statement)
        database.commit()


CHANGES: dict[str, Callable[[Path], object]] = {
    "a result": lambda results: write(results, "a", loss=2.0),
    "a study": lambda results: records.write_study(results, "other", ["b"]),
    "a deleted run": lambda results: execute(
        results,
        "update runs set lifecycle_stage = 'deleted' where run_uuid in "
        "(select run_uuid from tags where key = 'cell' and value = 'b')",
    ),
    "an unfinished run": lambda results: execute(results, "delete from tags where key = 'result_sha256'"),
    "a damaged record": lambda results: (results / HELD).write_bytes(b"\xff"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_after_a_change_everything_is_recorded_again(
    results: Path, opened: list[Path], change: Callable[[Path], object]
) -> None:
    record(results)
    opened.clear()
    change(results)
    assert record(results).keys() == {*KEYS}
    assert opened == [results]
    record(results)
    assert opened == [results], "the change is recorded"


def test_two_commands_that_record_the_same_cells_keep_each_others_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (tmp_path, [write(tmp_path, key) for key in KEYS])
    original, overtaken, second = mlflow_run._metrics, Event(), Thread(target=MLflow().record, args=given)

    def metrics(*written: Any) -> Any:
        if second.ident is None:
            second.start()  # another command begins while the first run is unfinished
            overtaken.wait(1)
        else:
            overtaken.set()
        return original(*written)

    monkeypatch.setattr(mlflow_run, "_metrics", metrics)
    MLflow().record(*given)
    second.join()
    recorded = [run.data.tags for run in connect(f"sqlite:///{tmp_path / DATABASE}").search_runs(["1"])]
    assert Counter(tags["cell"] for tags in recorded) == Counter(KEYS)
    assert all(mlflow_run.VERSION in tags for tags in recorded)


def test_a_store_whose_tables_are_not_all_made_is_not_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    def half(uri: str, *, create: bool) -> SimpleNamespace:
        Path(uri.removeprefix("sqlite:///")).write_text("half of the tables")
        return SimpleNamespace(search_experiments=interrupt)

    monkeypatch.setattr("pruning.tracking.store.connect", half)
    monkeypatch.setenv("DEPTH_PRUNING_CACHE", str(tmp_path / "cache"))
    with pytest.raises(KeyboardInterrupt):
        create_store(tmp_path / DATABASE)
    assert list(tmp_path.rglob("*.db")) == []
    (tmp_path / DATABASE).write_text("a store")
    create_store(tmp_path / DATABASE)
    assert (tmp_path / DATABASE).read_text() == "a store", "an existing store is left alone"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server, in a thread of this process, over an SQLite file."""
    from werkzeug.serving import make_server

    settings = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{tmp_path / 'server.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": (tmp_path / "artifacts").as_uri(),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        with warnings.catch_warnings():  # Starlette warns when MLflow imports it
            warnings.simplefilter("ignore")
            import mlflow.server.fastapi_app  # noqa: F401 - otherwise imported by the first request
            from mlflow.server import app
        running = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_runs_on_a_server_and_in_a_file_are_the_same(server: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    study = replace(analysis_grid.ONE, objectives=("perplexity",))
    analysis_grid.write(results, study)
    assert record_all(results) == record_all(results, server) == record_all(results, server) > 1
    file = f"sqlite:///{results / 'mlflow.db'}"
    there, here = runs(server), runs(file)
    assert there.keys() == here.keys()
    for name, run in here.items():
        description = described(server, there[name])
        assert description == described(file, run)
        assert description["ended"] == ("FINISHED", False, False)
