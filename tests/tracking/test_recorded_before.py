"""What the store holds, read without MLflow: recording is left out only if it would change nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pruning.core import records, storage
from pruning.core.mask import Mask
from pruning.tracking import store
from pruning.tracking.store import DATABASE, MLflow
from tests.helpers.mlflow_runs import described, runs

KEYS = ["a", "b"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with two recorded cells of one study."""
    folder = tmp_path_factory.mktemp("recorded")
    for key in KEYS:
        write(folder, key)
    records.write_study(folder, "mine", KEYS)
    MLflow().record(folder, [folder / key for key in KEYS])
    return folder


def write(results: Path, key: str, loss: float = 1.0) -> None:
    result: dict[str, Any] = {
        "cell": key,
        "status": "done",
        "model": {"name": "tiny"},
        "mask": Mask(6, (1,)).to_json(),
        "calibration": {
            "objective": "perplexity",
            **{"loss": loss, "dense_loss": 0.5, "standard_error": None, "source": "pydoc", "samples": 4},
        },
        "search": {
            "algo": "greedy",
            **{"k": 1, "evaluations_asked": 6.0, "evaluations_paid": 6.0, "seconds": 1.0},
        },
        "evaluation": {"pruned": {"ppl/heldout": 9.0}, "dense": {"ppl/heldout": 8.0}},
        "config": {
            "study": "mine",
            "seed": 0,
            "model": {"name": "tiny"},
            "objective": {"option": "perplexity"},
            "algo": {"option": "greedy"},
            "calibration": {"option": "pydoc"},
            **{"ratio": None, "k": 1},
        },
        "environment": {
            "commit": "0",
            **{"started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:00:01+00:00"},
        },
    }
    storage.write_json(results / key / "result.json", result)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The results folders whose store was opened through MLflow."""
    folders: list[Path] = []
    original = MLflow._open
    monkeypatch.setattr(
        MLflow, "_open", lambda self, folder: (folders.append(folder), original(self, folder))[1]
    )
    return folders


def record(results: Path) -> Any:
    """Record the cells; returns what the store then says of every run."""
    MLflow().record(results, [results / key for key in KEYS])
    uri = f"sqlite:///{results / DATABASE}"
    return {cell: described(uri, run) for cell, run in runs(uri).items()}


def test_what_is_recorded_is_not_recorded_again(
    results: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = record(results)
    assert not opened
    monkeypatch.setattr(store, "recorded_before", lambda *_: None)
    assert record(results) == short, "the plain way changes nothing either"
    assert opened == [results]


def execute(results: Path, statement: str) -> None:
    with closing(sqlite3.connect(results / DATABASE)) as database:
        database.execute(statement)
        database.commit()


CHANGES: dict[str, Callable[[Path], object]] = {
    "a result": lambda results: write(results, "a", loss=2.0),
    "a study": lambda results: records.write_study(results, "other", ["b"]),
    "a study of no such cell": lambda results: records.write_study(results, "third", ["c"]),
    "a deleted run": lambda results: execute(
        results,
        "update runs set lifecycle_stage = 'deleted' where run_uuid in "
        "(select run_uuid from tags where key = 'cell' and value = 'b')",
    ),
    "an unfinished run": lambda results: execute(results, "delete from tags where key = 'result_sha256'"),
    "the view": lambda results: execute(results, "delete from experiment_tags where key like '%ViewState%'"),
    "the name of the experiment": lambda results: execute(
        results, "update experiments set name = 'x' where experiment_id = 1"
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_after_a_change_everything_is_recorded_again(
    results: Path, opened: list[Path], change: Callable[[Path], object]
) -> None:
    record(results)
    opened.clear()
    change(results)
    record(results)
    assert opened == [results]
    record(results)
    assert opened == [results], "the change is recorded"


def test_a_store_that_is_no_database_is_left_to_the_plain_way(tmp_path: Path) -> None:
    from pruning.tracking.store import recorded_before

    database = tmp_path / DATABASE
    assert recorded_before(database, "depth-pruning", "") is None
    database.write_text("no database")
    assert recorded_before(database, "depth-pruning", "") is None
    database.write_bytes(b"")
    assert recorded_before(database, "depth-pruning", "") is None, "a store without tables"
