"""Record cells on an MLflow server, with their progress while they run; the search never waits for the server.

Data that cannot be sent are not lost: they are in the cell's files, and the next recording sends them. A running
cell has a provisional run, which the run of the finished cell (`mlflow_run.py`) replaces. So even if the server
does not answer for a while, it has the same runs in the end.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core.errors import InputError, PruningError
from pruning.core.records import NAME
from pruning.launcher.cell_state import cell_states
from pruning.launcher.scheduler import PROCESS, process, process_name
from pruning.runs.cell import BEST, Note
from pruning.tracking.client import check_uri, connect, plain_errors, reason
from pruning.tracking.mlflow_run import (
    BATCH,
    EXPERIMENT_TAGS,
    log_metrics,
    parameters,
    record_run,
    run_name,
    studies_of,
)
from pruning.tracking.store import record_all_runs

if TYPE_CHECKING:
    from pruning.runs.cell import Cell


log = logging.getLogger(__name__)

LATER = "depth-pruning track RESULTS tracker.uri=URI"


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

    @contextmanager
    def live(self, cell: Cell) -> Iterator[Note]:
        """Send the progress of a cell from a separate thread; yields the function that adds a point."""
        sender = _Sender(self, cell)
        thread = _started(sender.run_until_stopped)
        try:
            yield sender.note
        finally:
            sender.stopped.set()
            thread.join(self.patience)

    def finished(self, folder: Path) -> None:
        """Record a cell's result, but wait for the server no longer than `patience` seconds."""

        def send() -> None:
            try:
                record_run(*self.open(), folder, studies_of([folder])[folder])
            except Exception as error:
                log.warning("%s is not recorded yet (%s): run `%s` later", folder.name, reason(error), LATER)

        if (folder / NAME).exists():
            thread = _started(send)
            thread.join(self.patience)
            if thread.is_alive():
                log.warning("%s is not recorded yet (the server is slow): run `%s` later", folder.name, LATER)

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Record each cell unless the server already has its current result; close runs whose jobs have ended."""
        with plain_errors(self.uri):
            client, experiment = self.open()
            close_dead_runs(client, experiment, results)
            record_all_runs(client, experiment, results, folders)

    def open(self) -> tuple[Any, str]:
        """A client and the id of the experiment, which is created if it is missing."""
        client = connect(str(self.uri))
        if (experiment := client.get_experiment_by_name(self.experiment)) is None:
            try:
                return client, client.create_experiment(self.experiment, tags=EXPERIMENT_TAGS)
            except Exception:  # another cell may have just created the experiment
                if (experiment := client.get_experiment_by_name(self.experiment)) is None:
                    raise
        return client, experiment.experiment_id


def _started(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action, name="tracker", daemon=True)
    thread.start()
    return thread


# The provisional run of a running cell

LIVE = "live"  # the tag of a provisional run


@dataclass
class _Sender:
    """Sends the points of one cell until `stopped` is set; if the server does not answer, tries again later."""

    server: Server
    cell: Cell
    points: list[tuple[str, float, int, int]] = field(default_factory=list)  # name, value, step, time in ms
    stopped: threading.Event = field(default_factory=threading.Event)
    client: Any = None
    run: str = ""
    warned: bool = False

    def note(self, step: int, value: float, name: str = BEST, /) -> None:
        """Keep a point until it is sent."""
        self.points.append((name, value, step, int(time.time() * 1000)))

    def run_until_stopped(self) -> None:
        """Send the kept points every `server.every` seconds, and once more after the stop."""
        last = False
        while not last:
            last = self.stopped.is_set()
            try:
                self._send()
            except Exception as error:
                if not self.warned:
                    log.warning(
                        "cannot send the progress of this cell to %s (%s): trying again later",
                        self.server.uri,
                        reason(error),
                    )
                self.warned, self.client = True, None
            self.stopped.wait(0 if last else self.server.every)

    def _send(self) -> None:
        if self.client is None:
            client, experiment = self.server.open()
            self.run = _begin(client, experiment, self.cell)
            self.client = client
        chosen = self.points[:BATCH]
        log_metrics(self.client, self.run, chosen)
        del self.points[: len(chosen)]


def _begin(client: Any, experiment: str, cell: Cell) -> str:
    """The id of the provisional run of a cell: the run that an earlier start of the cell created, or a new run."""
    from mlflow.entities import RunTag

    submitted = "SUBMITIT_EXECUTOR" in os.environ
    job = (submitted and os.environ.get("SLURM_JOB_ID")) or process_name(os.getpid())
    tags = {"cell": cell.key, "sweep": cell.study, LIVE: "true", "job": job, "results": str(cell.results)}
    known = client.search_runs([experiment], f"tags.cell = '{cell.key}' and tags.{LIVE} = 'true'")
    if known:
        run = str(known[0].info.run_id)
        client.update_run(run, status="RUNNING")
    else:
        run = str(client.create_run(experiment, run_name=run_name(cell.key, cell.config)).info.run_id)
    pairs = [RunTag(name, value) for name, value in tags.items()]
    client.log_batch(run, params=parameters(cell.config), tags=pairs)
    return run


def close_dead_runs(client: Any, experiment: str, results: Path) -> None:
    """Close a results folder's live runs if their cells are no longer being computed; keep runs of other folders."""
    running = f"tags.{LIVE} = 'true' and attributes.status = 'RUNNING'"
    live = client.search_runs([experiment], running, max_results=50_000)
    runs = [run for run in live if run.data.tags.get("results") == str(results)]
    if not runs:
        return
    try:
        cells = cell_states(results, [run.data.tags["cell"] for run in runs])
    except PruningError as error:
        log.warning("runs of dead jobs are not closed: %s", error)
        return
    for run in runs:
        key, job = run.data.tags["cell"], run.data.tags["job"]
        in_flight = key in cells and cells[key].state.in_flight
        if in_flight or (job.startswith(PROCESS) and process(job).active):
            continue
        # If the cell has a result, another run holds that result, and a late message created this run: delete it.
        if (results / key / NAME).exists():
            client.delete_run(run.info.run_id)
        else:
            client.set_terminated(run.info.run_id, "KILLED")
