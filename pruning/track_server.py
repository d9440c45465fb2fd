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

from pruning import track_studies
from pruning.errors import InputError, PruningError, first_line
from pruning.track import Note, connect
from pruning.track_live import LIVE, telling
from pruning.track_runs import record

if TYPE_CHECKING:
    from pruning.cell import Cell

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
        return telling(self, cell)

    def finished(self, folder: Path) -> None:
        """Record a cell's result; after `patience` seconds the cell goes on without."""

        def send() -> None:
            client, experiment = self.open()
            record(client, experiment, folder)

        if (folder / "result.json").exists():
            _patiently(send, self.patience, folder.name)

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Record each cell, unless the very same result is there already, and close runs whose jobs are gone."""
        client, experiment = self.open()
        for folder in folders:
            record(client, experiment, folder)
        track_studies.record(client, experiment, results)
        _close(client, experiment, results)

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


def _close(client: Any, experiment: str, results: Path) -> None:
    """End the runs of cells of a results folder that nobody runs any more."""
    running = f"tags.{LIVE} = 'true' and attributes.status = 'RUNNING'"
    found = client.search_runs([experiment], running, max_results=50_000)
    mine = [run for run in found if run.data.tags.get("results") == str(results)]
    if not mine:
        return
    from pruning.launcher.process import process
    from pruning.launcher.states import standings

    try:
        known = standings(results, [run.data.tags["cell"] for run in mine])
    except PruningError as error:
        log.warning("runs of dead jobs are left as they are: %s", error)
        return
    for run in mine:
        job, standing = run.data.tags["job"], known.get(run.data.tags["cell"])
        alive = standing.state.in_flight if standing is not None else False
        if alive or (job.startswith("process-") and process(job).active):
            continue
        if (results / run.data.tags["cell"] / "result.json").exists():  # a message that came late
            client.delete_run(run.info.run_id)
        else:
            client.set_terminated(run.info.run_id, "KILLED")


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
