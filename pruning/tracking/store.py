"""Record finished cells in an MLflow store: an SQLite file, a database or a server."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from pruning.core import storage
from pruning.core.errors import InputError, PruningError, cache_folder
from pruning.core.model_table import ModelTable
from pruning.core.records import NAME
from pruning.core.wheels import made_once
from pruning.tracking.client import check_uri, connect, plain_errors
from pruning.tracking.mlflow_run import EXPERIMENT_TAGS, record_model, record_runs, studies_of, version_of

DATABASE = "mlflow.db"
# Importing MLflow takes two seconds. This file shows, without the import, whether the store is current.
HELD = "mlflow.held"
PATIENCE = 60.0  # seconds to wait while another process creates the database


@dataclass(frozen=True)
class MLflow:
    """Records one MLflow run per cell, with a tag that names the cell's studies. Runs are not nested.

    The default store is an SQLite file in the results folder. Only the command that started the cells and
    `depth-pruning track` write to this file. Raises InputError if `uri` cannot be an address of a store.
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
        """Record each cell unless the store has its current result. Raises PruningError if that fails."""
        with plain_errors(self._store(results)):
            studies, held = studies_of(folders), results / HELD
            versions = {one: version_of(one, studies[one]) for one in folders if (one / NAME).exists()}
            if self.uri is None and held.exists() and held.read_bytes() == self._state(results, versions):
                return
            client, experiment = self._open(results)
            # Two commands that record the same cell would delete each other's unfinished run. Recording many cells
            # takes minutes, so commands that only open the store use another lock.
            with self._writing(results):
                if failures := record_runs(client, experiment, versions):
                    raise PruningError(" ".join([*failures, "All other cells are recorded."]))
                if self.uri is None:
                    storage.write_bytes(held, self._state(results, versions))

    def record_models(self, results: Path, folder: Path) -> None:
        """Record each model of a comparison as one MLflow run. Raises PruningError if the store fails."""
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
            location = None if self.uri else (results / "mlflow-artifacts").as_uri()
            if known is not None and location in (None, known.artifact_location):
                return client, str(known.experiment_id)
            # If the results folder was moved, start a new experiment: MLflow stores absolute paths.
            if known is not None:
                client.rename_experiment(known.experiment_id, f"{self.experiment} {known.artifact_location}")
                client.delete_experiment(known.experiment_id)
            return client, str(
                client.create_experiment(self.experiment, artifact_location=location, tags=EXPERIMENT_TAGS)
            )

    def _state(self, results: Path, versions: Mapping[Path, str]) -> bytes:
        """A digest that changes if a cell's version or the database does (the latter by its size and mtime)."""
        database = (results / DATABASE).stat() if (results / DATABASE).exists() else None
        place = [self.experiment, str(results), database and [database.st_size, database.st_mtime_ns]]
        return storage.digest([place, sorted(versions.values())]).encode()


def create_store(database: Path) -> None:
    """Create an empty store in the file `database` unless the file exists. Call this under the store's lock.

    MLflow creates its tables one by one, which takes seconds, and it cannot open a store in which tables are missing.
    So an empty store is made once and kept in the cache, and a whole copy of it is moved into place.
    """
    empty = cache_folder() / f"mlflow-{version('mlflow')}.db"

    def make(scratch: Path) -> None:
        connect(f"sqlite:///{scratch / empty.name}", create=True).search_experiments()
        (scratch / empty.name).replace(empty)

    if not database.exists():
        made_once(empty, empty.exists, make)
        with storage.staged(database) as scratch:
            shutil.copyfile(empty, scratch / database.name)
            (scratch / database.name).replace(database)
