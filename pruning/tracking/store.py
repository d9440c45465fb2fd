"""Record finished cells in an MLflow store: an SQLite file, or a server that gets only finished cells."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from pruning.core import records
from pruning.core.errors import InputError
from pruning.core.records import NAME
from pruning.core.storage import staged
from pruning.runs.cell import Note, silent
from pruning.tracking.client import check_uri, connect, damage, plain_errors
from pruning.tracking.mlflow_run import (
    KIND,
    NOTED,
    VERSION,
    VIEWED,
    raise_failures,
    record_runs,
    record_table,
    show_as_training_runs,
    studies_of,
    version_of,
)

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
                records.record_studies(client, experiment, results)
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


# Make a new SQLite store of MLflow in one step: MLflow creates its tables one by one, which takes seconds.
#
# MLflow cannot open a store in which a kill has left some of the tables. So a new store is made under a hidden name.


def create_store(database: Path) -> None:
    """Create an empty store in the file `database` unless the file exists. Call this under the store's lock."""
    if database.exists():
        return
    with staged(database) as scratch:
        client = connect(f"sqlite:///{scratch / database.name}", create=True)
        client.search_experiments()
        client._tracking_client.store.engine.dispose()  # closes the file
        (scratch / database.name).replace(database)


# What an SQLite store of MLflow already holds, read without MLflow, whose import alone takes two seconds.
#
# Only the tables of experiments, runs and tags are read. If they cannot be read, nothing counts as recorded.

EXPERIMENT = (
    "select experiment_id, artifact_location from experiments where name = ? and lifecycle_stage = 'active'"
)
TAGS = "select key, value from experiment_tags where experiment_id = ?"
VERSIONS = """
select cell.value, version.value from runs
join tags as cell on cell.run_uuid = runs.run_uuid and cell.key = 'cell'
join tags as version on version.run_uuid = runs.run_uuid and version.key = ?
where runs.experiment_id = ? and runs.lifecycle_stage = 'active'
"""


@dataclass(frozen=True)
class Before:
    """The tags of the experiment, and (cell, version) of each recorded run."""

    tags: dict[str, str]
    runs: frozenset[tuple[str, str]]


def recorded_before(database: Path, experiment: str, location: str) -> Before | None:
    """What the experiment of a store holds.

    None if there is no such store or experiment, if its artifacts are elsewhere, or if the store is damaged.
    """
    if not database.exists() or damage(database) is not None:
        return None
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            found = connection.execute(EXPERIMENT, (experiment,)).fetchone()
            if found is None or found[1] != location:
                return None
            tags = dict(connection.execute(TAGS, (found[0],)).fetchall())
            return Before(tags, frozenset(connection.execute(VERSIONS, (VERSION, found[0])).fetchall()))
    except sqlite3.Error:
        return None


def nothing_new(before: Before, results: Path, folders: Sequence[Path]) -> bool:
    """Whether recording these cells would change nothing: every run, every study and the view are there."""
    if before.tags.get(KIND[0]) != KIND[1] or not {VIEWED, NOTED} <= before.tags.keys():
        return False
    studies = studies_of(folders)
    recorded = all(
        not (folder / NAME).exists() or (folder.name, version_of(folder, studies[folder])) in before.runs
        for folder in folders
    )
    return recorded and records.wanted_tags(before.tags, results).items() <= before.tags.items()
