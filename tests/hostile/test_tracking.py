"""MLflow stores that are misspelt, missing, damaged, busy or absent, and cells that cannot be recorded."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from pruning.core.errors import InputError, PruningError
from pruning.tracking import browse, rebuild
from pruning.tracking import store as store_module
from pruning.tracking.client import connect
from pruning.tracking.store import MLflow
from tests.helpers.analysis_grid import ONE, write
from tests.helpers.damage import half
from tests.helpers.mlflow_runs import runs

TINY = replace(ONE, objectives=("perplexity",))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two cells that are recorded in MLflow."""
    folder = tmp_path_factory.mktemp("results")
    write(folder, TINY)
    rebuild.record_all(folder)
    return folder


@pytest.fixture
def folder(results: Path, tmp_path: Path) -> Path:
    """A copy of these cells and of their database: it was moved, so all cells are recorded again."""
    shutil.copyfile(results / "mlflow.db", tmp_path / "mlflow.db")
    for place in [*_cells(results), results / "studies"]:
        shutil.copytree(place, tmp_path / place.name)
    return tmp_path


# An address, and what its refusal names.
WRONG = {
    "mlruns": "sqlite:///FILE",
    "": "sqlite:///FILE",
    "sqllite:///runs.db": "'sqllite'.*sqlite",
    "file:///tmp/mlruns": "'file'",
    "htp://host:5000": "'htp'.*http",
    **dict.fromkeys(("sqlite:", "sqlite:///", "sqlite:///:memory:"), "file: .*sqlite:///FILE"),
    **dict.fromkeys(("sqlite:/runs.db", "sqlite://runs.db"), "file: .*sqlite:///FILE"),
    "sqlite:///no/such/folder/runs.db": "/no/such/folder",
    "sqlite:///sub": r"sqlite:///sub .*mlflow\.db",
    "sqlite:///text.db": "text.db",
    **dict.fromkeys(("http://", "http://host:port"), "server .*http://HOST:PORT"),
    "postgresql://": "postgresql://",
}
RIGHT = ["sqlite:///new.db", "sqlite:///results/mlflow.db", "sqlite+pysqlite:///new.db", "http://host:5000"]
RIGHT += ["https://host/mlflow", "postgresql+psycopg2://user@localhost/mlflow"]
RIGHT += ["mysql+pymysql://user@localhost/mlflow"]


@pytest.mark.parametrize("uri", WRONG)
def test_a_wrong_address_is_refused_before_anything_is_created(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("text.db").write_text("not a database at all")
    Path("mlflow.db").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=WRONG[uri]):
        MLflow(uri)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_address_of_a_store_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [MLflow(uri).uri for uri in RIGHT] == RIGHT


def test_commands_that_read_create_no_database(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mlflow\.db"):
        browse.experiment_of(tmp_path)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("create table cells (name)")
    with pytest.raises(InputError, match=r"other\.db"):
        connect(f"sqlite:///{tmp_path / 'other.db'}")
    assert not list(tmp_path.glob("ml*.db"))


def test_a_damaged_cell_is_named_and_the_others_are_recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good, *_ = _cells(folder)
    half(bad / "result.json")
    monkeypatch.setattr("sys.argv", ["track", str(folder)])
    with pytest.raises(PruningError) as ended:
        rebuild.main()
    assert bad.name in str(ended.value)
    assert good.name not in str(ended.value)
    rest = {cell.name for cell in _cells(folder)} - {bad.name}
    assert set(runs(f"sqlite:///{folder / 'mlflow.db'}")) == rest


@pytest.mark.slow
def test_a_damaged_database_is_refused_and_can_be_built_again(results: Path, folder: Path) -> None:
    whole = (results / "mlflow.db").read_bytes()
    database = folder / "mlflow.db"
    database.write_bytes(whole[:8192] + bytes(8192) + whole[16384 : len(whole) // 2])
    with pytest.raises(PruningError, match=r"mlflow\.db .*damaged"):
        MLflow().start(folder)
    database.rename(folder / "damaged.db")
    assert rebuild.record_all(folder) == len(_cells(folder))
    assert set(runs(f"sqlite:///{database}")) == {cell.name for cell in _cells(folder)}


def test_a_busy_database_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PATIENCE", 0.1)
    with FileLock(folder / "mlflow.lock"), pytest.raises(PruningError, match=r"mlflow\.db .*process"):
        MLflow().start(folder)


def test_a_server_that_is_absent_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["track", str(folder), "tracker.uri=http://127.0.0.1:9"])
    with caplog.at_level(logging.INFO), pytest.raises(PruningError) as ended:
        rebuild.main()
    assert "http://127.0.0.1:9 " in str(ended.value)
    assert not caplog.records


def _cells(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/result.json"))


def test_files_that_links_lead_to_are_not_recorded(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    private = tmp_path_factory.mktemp("private") / "secret.json"
    private.write_text("secret")
    (cell, _) = _cells(folder)
    (cell / "launch.log").unlink(missing_ok=True)
    (cell / "launch.log").symlink_to(private)
    rebuild.record_all(folder)
    stored = [path for path in folder.glob("mlflow-artifacts/**/*") if path.is_file()]
    assert stored
    assert not any(b"secret" in path.read_bytes() for path in stored)
