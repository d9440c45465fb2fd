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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pruning.core import records
from pruning.core.errors import InputError, PruningError
from pruning.core.records import NAME, leaves
from pruning.launcher.cell_state import cell_states
from pruning.launcher.submission import process
from pruning.runs.cell import BEST, Note
from pruning.tracking.client import check_uri, connect, plain_errors, reason
from pruning.tracking.mlflow_run import (
    raise_failures,
    record_run,
    record_runs,
    record_table,
    run_name,
    show_as_training_runs,
    studies_of,
)

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
            records.record_studies(client, experiment, results)
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


# On an MLflow server, close the runs of cells that are no longer being computed.


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
        job, cell = run.data.tags["job"], cells.get(run.data.tags["cell"])
        alive = cell.state.in_flight if cell is not None else False
        if alive or (job.startswith("process-") and process(job).active):
            continue
        # If the cell has a result, another run holds that result, and a late message created this run: delete it.
        if (results / run.data.tags["cell"] / NAME).exists():
            client.delete_run(run.info.run_id)
        else:
            client.set_terminated(run.info.run_id, "KILLED")


# Send the progress of a running cell to an MLflow server, as a provisional run, from a separate thread.

LIVE = "live"  # the tag of a provisional run


class Destination(Protocol):
    """What this module needs from a server: a client, the time between messages, and the longest wait at the end."""

    @property
    def uri(self) -> str | None:
        """The address of the server."""
        ...

    @property
    def every(self) -> float:
        """Seconds between two messages."""
        ...

    @property
    def patience(self) -> float:
        """Seconds to wait at the end until everything is sent."""
        ...

    def open(self) -> tuple[Any, str]:
        """A client and the id of the experiment."""
        ...


@dataclass
class _Sender:
    """Sends the points of one cell until `stopped` is set; if the server does not answer, tries again later."""

    server: Destination
    cell: Cell
    points: list[tuple[str, int, float, int]] = field(default_factory=list)  # name, step, value, time in ms
    stopped: threading.Event = field(default_factory=threading.Event)
    client: Any = None
    run: str | None = None
    warned: bool = False

    def note(self, step: int, value: float, name: str = BEST, /) -> None:
        """Keep a point until it is sent."""
        self.points.append((name, step, value, int(time.time() * 1000)))

    def run_until_stopped(self) -> None:
        """Send the kept points every `server.every` seconds, and once more after the stop."""
        while True:
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
            if last:
                return
            self.stopped.wait(self.server.every)

    def _send(self) -> None:
        from mlflow.entities import Metric

        if self.client is None:
            client, experiment = self.server.open()
            self.run = _begin(client, experiment, self.cell)
            self.client = client
        chosen = self.points[:1000]  # MLflow's limit for one batch
        if chosen:
            metrics = [Metric(name, value, when, step) for name, step, value, when in chosen]
            self.client.log_batch(self.run, metrics=metrics)
            del self.points[: len(chosen)]


@contextmanager
def live_run(server: Destination, cell: Cell) -> Iterator[Note]:
    """Send the progress of a cell to a server from a separate thread; yields the function that adds a point.

    At the end, wait up to `server.patience` seconds until everything is sent.
    """
    sender = _Sender(server, cell)
    thread = threading.Thread(target=sender.run_until_stopped, name="tracker", daemon=True)
    thread.start()
    try:
        yield sender.note
    finally:
        sender.stopped.set()
        thread.join(server.patience)


def _begin(client: Any, experiment: str, cell: Cell) -> str:
    """The id of the provisional run of a cell: the run that an earlier start of the cell created, or a new run."""
    from mlflow.entities import Param, RunTag

    known = client.search_runs([experiment], f"tags.cell = '{cell.key}' and tags.{LIVE} = 'true'")
    tags = {"cell": cell.key, "sweep": cell.study, LIVE: "true", "job": _job(), "results": str(cell.results)}
    if known:
        run = str(known[0].info.run_id)
        client.update_run(run, status="RUNNING")
    else:
        run = str(client.create_run(experiment, run_name=run_name(cell.key, cell.config)).info.run_id)
    params = [Param(name, str(value)[:6000]) for name, value in leaves(cell.config)]
    client.log_batch(run, params=params, tags=[RunTag(name, value) for name, value in tags.items()])
    return run


def _job() -> str:
    """The name of this job; `close_dead_runs` uses it to check whether the cell still runs."""
    from pruning.launcher.submission import process_name

    submitted = "SUBMITIT_EXECUTOR" in os.environ
    return (submitted and os.environ.get("SLURM_JOB_ID")) or process_name(os.getpid())
