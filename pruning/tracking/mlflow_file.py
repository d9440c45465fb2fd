"""Record finished cells in an MLflow store: an SQLite file, or a server that gets only finished cells."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from pruning.core import study_tags
from pruning.core.errors import InputError
from pruning.core.result import NAME
from pruning.runs.tracker import Note, silent
from pruning.tracking.client import connect
from pruning.tracking.mlflow_run import raise_failures, record_runs
from pruning.tracking.new_store import create_store
from pruning.tracking.recorded_before import nothing_new, recorded_before
from pruning.tracking.runs_view import show_as_training_runs
from pruning.tracking.store_errors import plain_errors
from pruning.tracking.store_uri import check_uri, damage
from pruning.tracking.table_run import record_table

if TYPE_CHECKING:
    from pruning.runs.cell import Cell

log = logging.getLogger(__name__)

DATABASE = "mlflow.db"
PATIENCE = 60.0  # seconds to wait while another process creates the database


@dataclass(frozen=True)
class MLflow:
    """Records one MLflow run per cell, with a tag that names the cell's studies. Runs are not nested.

    The default store is an SQLite file beside the results. Cells write only to their folders. The command that
    started the cells, or `python -m pruning.track`, writes the store.
    """

    uri: str | None = None
    experiment: str = "depth-pruning"

    def __post_init__(self) -> None:
        """Raise InputError if `uri` cannot be the address of a store."""
        if self.uri is not None:
            check_uri(self.uri)

    def start(self, results: Path) -> None:
        """Create database and experiment, under a lock: two processes at once would corrupt the database."""
        with plain_errors(self._store(results)):
            self._open(results)

    def live(self, cell: Cell) -> AbstractContextManager[Note]:  # noqa: ARG002
        """Does nothing: a cell is recorded only after it has ended."""
        return silent()

    def finished(self, folder: Path) -> None:
        """Does nothing: `record` records the cell."""

    def record(self, results: Path, folders: Sequence[Path], again: bool = False) -> None:
        """Record each cell unless the store already has its current result; `again` also compares the numbers.

        Raises PruningError if the store cannot be used, or after the others are recorded if a cell cannot be.
        """
        if not again and self._has_all(results, folders):
            return
        with plain_errors(self._store(results)):
            client, experiment = self._open(results)
            with self._writing(results):
                failures = record_runs(client, experiment, folders)
                study_tags.record_studies(client, experiment, results)
                show_as_training_runs(client, experiment)
        raise_failures(failures)

    def table(self, results: Path, folder: Path) -> None:
        """Record the table of published masks as one run."""
        with plain_errors(self._store(results)):
            client, experiment = self._open(results)
            with self._writing(results):
                record_table(client, experiment, folder)

    def _has_all(self, results: Path, folders: Sequence[Path]) -> bool:
        """Whether the SQLite file beside the results already holds these cells; only that file is read."""
        if self.uri is not None:
            return False
        before = recorded_before(results / DATABASE, self.experiment, _artifacts(results))
        return before is not None and nothing_new(before, results, folders)

    def _store(self, results: Path) -> str:
        return self.uri or str(results / DATABASE)

    def _writing(self, results: Path) -> AbstractContextManager[object]:
        """A lock for writing runs; only the file beside the results has one."""
        return nullcontext() if self.uri else _writing_lock(results)

    def _open(self, results: Path) -> tuple[Any, str]:
        if self.uri is None and (database := results / DATABASE).is_symlink():
            raise InputError(
                f"{database} is a symbolic link, and nothing is written through one: remove it, or give the store "
                f"itself, tracker.uri=sqlite:///{database.resolve()}"
            )
        with FileLock(results / "mlflow.lock", timeout=PATIENCE):
            damaged = self.uri is None and put_aside_if_damaged(results / DATABASE)
            if self.uri is None:
                create_store(results / DATABASE)
            client = connect(self.uri or f"sqlite:///{results / DATABASE}", create=True)
            experiment = self._experiment(client, results)
        if damaged:
            with self._writing(results):
                failures = record_runs(client, experiment, _done(results))
            for failure in failures:
                log.warning(failure)
        return client, experiment

    def _experiment(self, client: Any, results: Path) -> str:
        """The id of the experiment, which is created if it is missing."""
        known = client.get_experiment_by_name(self.experiment)
        location = None if self.uri else _artifacts(results)
        if known is not None and location in (None, known.artifact_location):
            return str(known.experiment_id)
        # If the results folder was moved, start a new experiment: MLflow stores absolute paths.
        if known is not None:
            client.rename_experiment(known.experiment_id, f"{self.experiment} {known.artifact_location}")
            client.delete_experiment(known.experiment_id)
        return str(client.create_experiment(self.experiment, artifact_location=location))


@contextmanager
def _writing_lock(results: Path) -> Iterator[None]:
    """Let one command at a time write runs: two that record one cell would delete each other's unfinished run.

    Recording many cells takes minutes, so this is another lock than that of a command that only opens the store.
    """
    lock = FileLock(results / "mlflow-writing.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another command writes to %s: waiting for it", DATABASE)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _artifacts(results: Path) -> str:
    return (results / "mlflow-artifacts").as_uri()


def _done(results: Path) -> list[Path]:
    """The folders of all cells that have a result."""
    return sorted(path.parent for path in results.glob(f"*/{NAME}"))


def put_aside_if_damaged(database: Path) -> bool:
    """Rename a damaged database, with its journals, so that a new one can be built; whether it was damaged."""
    if not database.exists() or (fault := damage(database)) is None:
        return False
    aside = database.with_name(f"{database.name}.damaged-{datetime.now():%Y%m%dT%H%M%S}")
    for end in ("", "-wal", "-shm", "-journal"):
        part = database.with_name(database.name + end)
        if part.exists():
            part.rename(f"{aside}{end}")
    log.warning(
        "%s is damaged (%s): it is now %s, and a new one is built from the results files.",
        database,
        fault,
        aside.name,
    )
    return True
