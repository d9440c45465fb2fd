"""Send the progress of a running cell to an MLflow server, as a provisional run, from a separate thread."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pruning.core.nested import leaves
from pruning.runs.tracker import BEST
from pruning.tracking.run_names import run_name
from pruning.tracking.store_errors import reason

if TYPE_CHECKING:
    from pruning.runs.cell import Cell
    from pruning.runs.tracker import Note

log = logging.getLogger(__name__)

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
    from pruning.launcher.local_process import process_name

    submitted = "SUBMITIT_EXECUTOR" in os.environ
    return (submitted and os.environ.get("SLURM_JOB_ID")) or process_name(os.getpid())
