"""Record finished cells in an MLflow store: an SQLite file, a database or a server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pruning.core import storage
from pruning.core.errors import InputError, PruningError
from pruning.core.model_table import ModelTable
from pruning.core.records import NAME
from pruning.tracking.client import check_uri, connect, plain_errors
from pruning.tracking.mlflow_run import EXPERIMENT_TAGS, record_model, record_runs, studies_of, version_of

DATABASE = "mlflow.db"
HELD = "mlflow.held"  # a list of what the SQLite file holds, which can be read without MLflow
PATIENCE = 60.0  # seconds to wait while another process creates the database


@dataclass(frozen=True)
class MLflow:
    """Records one MLflow run per cell, with a tag that names the cell's studies. Runs are not nested.

    The default store is an SQLite file in the results folder. The command that started the cells writes to it, or
    `depth-pruning track`; cells never do. Raises InputError if `uri` cannot be the address of a store.
    """

    uri: str | None = None
    experiment: str = "depth-pruning"

    def __post_init__(self) -> None:
        if self.uri is not None:
            check_uri(self.uri)

    def start(self, results: Path) -> None:
        """Create the database and the experiment, under a lock: two processes at once would corrupt the database."""
        with plain_errors(self._store(results)):
            self._open(results)

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Record each cell unless the store already has its current result.

        Raises PruningError if the store cannot be used. If single cells cannot be recorded, records all others and
        then raises PruningError.
        """
        with plain_errors(self._store(results)):
            if self._wanted(results, folders).items() <= self._held(results).items():
                return
            client, experiment = self._open(results)
            # Two commands that record the same cell would delete each other's unfinished run. Recording many cells
            # takes minutes, so commands that only open the store use another lock.
            with self._writing(results):
                held = self._held(results)
                failures = record_runs(client, experiment, folders)
                if failures:
                    raise PruningError(" ".join([*failures, "All other cells are recorded."]))
                if self.uri is None:
                    lines = sorted(" ".join(item) for item in (held | self._wanted(results, folders)).items())
                    storage.write_text(results / HELD, "\n".join(lines))

    def record_models(self, results: Path, folder: Path) -> None:
        """Record each model of the comparison in a folder as a run. Raises PruningError as `record` does."""
        with plain_errors(self._store(results)):
            client, experiment = self._open(results)
            with self._writing(results):
                for row in ModelTable.read(folder).rows:
                    record_model(client, experiment, folder, row)

    def _writing(self, results: Path) -> AbstractContextManager[object]:
        """The lock that a command holds while it writes runs to the SQLite file."""
        return nullcontext() if self.uri else FileLock(results / "mlflow-writing.lock")

    def _store(self, results: Path) -> str:
        return self.uri or str(results / DATABASE)

    def _open(self, results: Path) -> tuple[Any, str]:
        """A client and the id of the experiment. If there is no experiment, creates one."""
        database = results / DATABASE
        if self.uri is None and database.is_symlink():
            raise InputError(
                f"{database} is a symbolic link, and nothing is written through one: remove it, or give the store "
                f"itself, tracker.uri=sqlite:///{database.resolve()}"
            )
        with FileLock(results / "mlflow.lock", timeout=PATIENCE):
            if self.uri is None:
                create_store(database)
            client = connect(self.uri or f"sqlite:///{database}", create=self.uri is not None)
            known = client.get_experiment_by_name(self.experiment)
            location = None if self.uri else _artifacts(results)
            if known is not None and location in (None, known.artifact_location):
                return client, str(known.experiment_id)
            # If the results folder was moved, start a new experiment: MLflow stores absolute paths.
            if known is not None:
                client.rename_experiment(known.experiment_id, f"{self.experiment} {known.artifact_location}")
                client.delete_experiment(known.experiment_id)
            return client, str(
                client.create_experiment(self.experiment, artifact_location=location, tags=EXPERIMENT_TAGS)
            )

    # Importing MLflow takes two seconds. So a file lists what the store held after the last recording: the version of
    # each cell, and the database's size and mtime, which show whether another program has written to it.

    def _state(self, results: Path) -> dict[str, str]:
        try:
            state = (results / DATABASE).stat()
        except OSError:
            return {"no store": ""}
        return {f"store {self.experiment} {_artifacts(results)}": f"{state.st_size}-{state.st_mtime_ns}"}

    def _wanted(self, results: Path, folders: Sequence[Path]) -> dict[str, str]:
        """The entries that `HELD` contains if recording these cells would change nothing."""
        studies, done = studies_of(folders), [folder for folder in folders if (folder / NAME).exists()]
        cells = {f"cell {folder.name}": version_of(folder, studies[folder]) for folder in done}
        return self._state(results) | cells

    def _held(self, results: Path) -> dict[str, str]:
        """The entries of `HELD`; none if the database has been written since then, or if that is not known."""
        if self.uri is not None:
            return {}
        try:
            lines = (results / HELD).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return {}
        held = {name: value for name, _, value in (line.rpartition(" ") for line in lines)}
        return held if self._state(results).items() <= held.items() else {}


def _artifacts(results: Path) -> str:
    return (results / "mlflow-artifacts").as_uri()


def create_store(database: Path) -> None:
    """Create an empty store in the file `database` unless the file exists. Call this under the store's lock.

    MLflow creates its tables one by one, which takes seconds, and it cannot open a store in which tables are missing.
    So that a kill leaves no such store, a new one is created in a hidden folder and then moved.
    """
    if not database.exists():
        with storage.staged(database) as scratch:
            connect(f"sqlite:///{scratch / database.name}", create=True).search_experiments()
            (scratch / database.name).replace(database)
