"""Record cells on an MLflow server, with their progress while they run; the search never waits for the server.

Data that cannot be sent are not lost: they are in the cell's files, and the next recording sends them. A running
cell has a provisional run, which the run of the finished cell (`mlflow_run.py`) replaces. So even if the server
does not answer for a while, it has the same runs in the end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core import study_tags
from pruning.core.errors import InputError
from pruning.core.result import NAME
from pruning.runs.tracker import Note
from pruning.tracking.client import connect
from pruning.tracking.dead_runs import close_dead_runs
from pruning.tracking.live_run import live_run
from pruning.tracking.mlflow_run import raise_failures, record_run, record_runs, studies_of
from pruning.tracking.runs_view import show_as_training_runs
from pruning.tracking.store_errors import plain_errors, reason
from pruning.tracking.store_uri import check_uri
from pruning.tracking.table_run import record_table

if TYPE_CHECKING:
    from pruning.runs.cell import Cell

log = logging.getLogger(__name__)

LATER = "python -m pruning.track RESULTS tracker.uri=URI"


@dataclass(frozen=True)
class Server:
    """An MLflow server at `uri`. A running cell sends its progress at most once in `every` seconds.

    At its end, a cell waits up to `patience` seconds until everything is sent. Raises InputError if a setting is
    invalid.
    """

    uri: str | None = None
    experiment: str = "depth-pruning"
    every: float = 10.0
    patience: float = 30.0

    def __post_init__(self) -> None:
        if not str(self.uri).startswith(("http://", "https://")):
            raise InputError(
                f"tracker.uri={self.uri} is not the address of a server: give tracker.uri=http://HOST:PORT or set "
                "MLFLOW_TRACKING_URI; tracker=mlflow writes to a file and needs no server."
            )
        check_uri(str(self.uri))
        for name in ("every", "patience"):
            if getattr(self, name) < 0:
                raise InputError(f"tracker.{name}={getattr(self, name)} is negative: give seconds.")

    def start(self, results: Path) -> None:  # noqa: ARG002 - a server stores its runs itself
        """Create the experiment."""
        with plain_errors(self.uri):
            self.open()

    def live(self, cell: Cell) -> AbstractContextManager[Note]:
        """Send the cell's progress to the server from a separate thread."""
        return live_run(self, cell)

    def finished(self, folder: Path) -> None:
        """Record a cell's result, but wait for the server no longer than `patience` seconds."""

        def send() -> None:
            client, experiment = self.open()
            record_run(client, experiment, folder, studies_of([folder])[folder])

        if (folder / NAME).exists():
            _patiently(send, self.patience, folder.name)

    def record(self, results: Path, folders: Sequence[Path], again: bool = False) -> None:  # noqa: ARG002 - always compared
        """Record each cell unless the server already has its current result; close runs whose jobs have ended."""
        with plain_errors(self.uri):
            client, experiment = self.open()
            failures = record_runs(client, experiment, folders)
            study_tags.record_studies(client, experiment, results)
            show_as_training_runs(client, experiment)
            close_dead_runs(client, experiment, results)
        raise_failures(failures)

    def table(self, results: Path, folder: Path) -> None:  # noqa: ARG002 - a server stores its runs itself
        """Record the table of published masks as one run."""
        with plain_errors(self.uri):
            record_table(*self.open(), folder)

    def open(self) -> tuple[Any, str]:
        """A client and the id of the experiment, which is created if it is missing."""
        client = connect(str(self.uri))
        if (experiment := client.get_experiment_by_name(self.experiment)) is None:
            try:
                return client, client.create_experiment(self.experiment)
            except Exception:  # another cell may have just created the experiment
                if (experiment := client.get_experiment_by_name(self.experiment)) is None:
                    raise
        return client, experiment.experiment_id


def _patiently(action: Callable[[], None], seconds: float, cell: str) -> None:
    """Run an action for at most `seconds`; warn if it fails or takes longer."""

    def guarded() -> None:
        try:
            action()
        except Exception as error:
            log.warning("%s is not recorded yet (%s): run `%s` later", cell, reason(error), LATER)

    thread = threading.Thread(target=guarded, name="tracker", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        log.warning("%s is not recorded yet (the server is slow): run `%s` later", cell, LATER)
