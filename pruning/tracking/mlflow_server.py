"""Runs that can be watched: a cell tells an MLflow server how far it is, and never waits for it.

What cannot be sent is not lost, since it is in the cell's files: the next recording brings it. A cell's run is a
provisional one while it is searched, and is replaced by what `track_runs.py` makes of the finished cell, so a server
that was away for a while, or all the time, ends with the runs that it would have anyway.
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
from pruning.core.errors import InputError, first_line
from pruning.core.result import NAME
from pruning.runs.tracker import Note
from pruning.tracking.client import connect
from pruning.tracking.dead_runs import close_dead_runs
from pruning.tracking.live_run import live_run
from pruning.tracking.mlflow_run import record_run

if TYPE_CHECKING:
    from pruning.runs.cell import Cell

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Server:
    """An MLflow server at `uri`. A running cell tells it something every `every` seconds at the most.

    `patience` is for how many seconds a cell waits, at its end, for what is still to be sent.
    """

    uri: str | None = None
    experiment: str = "depth-pruning"
    every: float = 10.0
    patience: float = 30.0

    def __post_init__(self) -> None:
        if not str(self.uri).startswith(("http://", "https://")):
            raise InputError(
                f"tracker.uri={self.uri} is no server: give tracker.uri=http://HOST:PORT or set MLFLOW_TRACKING_URI; "
                "tracker=mlflow writes to a file, and needs none."
            )
        for name in ("every", "patience"):
            if getattr(self, name) < 0:
                raise InputError(f"tracker.{name}={getattr(self, name)} is negative: give seconds.")

    def start(self, results: Path) -> None:  # noqa: ARG002 - a server has its own place
        """Create the experiment."""
        self.open()

    def live(self, cell: Cell) -> AbstractContextManager[Note]:
        """Tell the server, from a thread of its own, what the cell is told."""
        return live_run(self, cell)

    def finished(self, folder: Path) -> None:
        """Record a cell's result; after `patience` seconds the cell goes on without."""

        def send() -> None:
            client, experiment = self.open()
            record_run(client, experiment, folder)

        if (folder / NAME).exists():
            _patiently(send, self.patience, folder.name)

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Record each cell, unless the very same result is there already, and close runs whose jobs are gone."""
        client, experiment = self.open()
        for folder in folders:
            record_run(client, experiment, folder)
        study_tags.record_studies(client, experiment, results)
        close_dead_runs(client, experiment, results)

    def open(self) -> tuple[Any, str]:
        """A client and the experiment's number."""
        client = connect(str(self.uri))
        if (found := client.get_experiment_by_name(self.experiment)) is None:
            try:
                return client, client.create_experiment(self.experiment)
            except Exception:  # another cell was faster
                if (found := client.get_experiment_by_name(self.experiment)) is None:
                    raise
        return client, found.experiment_id


def _patiently(action: Callable[[], None], seconds: float, what: str) -> None:
    """Do something that may fail or take long; either is a warning."""

    def guarded() -> None:
        try:
            action()
        except Exception as error:
            log.warning(
                "%s is not recorded yet (%s): `python -m pruning.track` does it", what, first_line(error)
            )

    thread = threading.Thread(target=guarded, name="tracker", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        log.warning("%s is not recorded yet, the server is slow: `python -m pruning.track` does it", what)
