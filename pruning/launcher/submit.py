"""What a command does with jobs: one command at a time submits, and whoever wants to waits for what is in flight."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pruning.core.errors import InputError
from pruning.core.result import Failure
from pruning.launcher import slurm_queue
from pruning.launcher.cell_state import CellState, State, cell_states
from pruning.launcher.local_process import process
from pruning.launcher.submission_order import ordered
from pruning.launcher.submissions import QueuedCell, submissions

if TYPE_CHECKING:
    from pruning.launcher import Launcher
    from pruning.runs.prepare import Prepared

log = logging.getLogger(__name__)

SETTLED = 5.0  # seconds for which a scheduler has to say that a job without a result has ended
USUAL = {"", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Dependency", "waits for a place"}
POLL = (1.0, 15.0)  # seconds between two looks: more cells, longer


@contextmanager
def submission_lock(results: Path) -> Iterator[None]:
    """Keep other commands from submitting meanwhile, and end what one that died has left half submitted."""
    from filelock import FileLock

    (results / "jobs").mkdir(parents=True, exist_ok=True)
    with FileLock(results / "jobs" / ".lock"):
        for record in submissions(results):
            if record.complete:
                continue
            if record.on_slurm:
                log.warning("a command died while it submitted %s: its jobs are cancelled", record.name)
                slurm_queue.cancel_named(record.name)
            elif process(record.driver).active:
                continue
            record.complete = True
            record.save()
        yield


def tasks(prepared: Sequence[Prepared], order: str) -> list[QueuedCell]:
    """Prepared cells as what is submitted, in order."""
    return ordered([_task(ready) for ready in prepared], order)


def _task(ready: Prepared) -> QueuedCell:
    from pruning.core.hashing import digest
    from pruning.launcher.job import specification
    from pruning.search import budget

    cell, identity = ready.cell, ready.cell.identity()
    group = digest({name: identity[name] for name in ("model", "objective", "calibration", "seed")})
    config, choices = specification(cell)
    evaluations = budget.evaluations(cell.algo, ready.space)
    return QueuedCell(cell.key, config, choices, cell.model.resources, evaluations, group)


def settle(launcher: Launcher, results: Path, keys: Sequence[str]) -> dict[str, CellState]:
    """Wait until no cell is in flight; returns how each ended."""
    ended: dict[str, CellState] = {}
    doubtful: dict[str, float] = {}
    shown = ""
    while True:
        launcher.step()
        open_keys = [key for key in keys if key not in ended]
        try:
            found = cell_states(results, open_keys)
        except InputError as error:  # a scheduler that restarts is no reason to stop waiting for it
            log.warning("%s", error)
            time.sleep(POLL[1])
            continue
        now = time.monotonic()
        for key, standing in found.items():
            if standing.state.in_flight:
                doubtful.pop(key, None)
            elif standing.state is State.DONE or now - doubtful.setdefault(key, now) >= SETTLED:
                ended[key] = standing
        if (line := summary([*ended.values(), *(s for k, s in found.items() if k not in ended)])) != shown:
            log.info("%s", shown := line)
        if len(ended) == len(keys):
            launcher.finish()
            return ended
        time.sleep(min(POLL[1], POLL[0] + len(open_keys) / 50))


def summary(found: Sequence[CellState]) -> str:
    """How many cells are in each state, and why those wait that wait for something strange."""
    counts = Counter(standing.state for standing in found)
    text = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    strange = {one.reason for one in found if one.state is State.PENDING} - USUAL
    return f"cells: {text}" + (f" (some wait: {', '.join(sorted(strange))})" if strange else "")


def failure(standing: CellState) -> Failure:
    """A cell that did not end well, as the table of failures shows it."""
    kind, _, message = standing.reason.partition(": ")
    if not kind.isidentifier():  # no exception of the cell's own: what the scheduler says
        kind, message = standing.state.value, standing.reason
    return {"cell": standing.key, "error": {"type": kind, "message": message, "log": standing.log}}
