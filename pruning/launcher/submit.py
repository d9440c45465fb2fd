"""Submit cells as jobs, one command at a time, and wait for cells in flight."""

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
from pruning.evaluation import digests_of
from pruning.launcher import slurm_queue
from pruning.launcher.cell_state import SLOT, CellState, State, cell_states
from pruning.launcher.local_process import process
from pruning.launcher.submission_order import ordered
from pruning.launcher.submissions import QueuedCell, submissions

if TYPE_CHECKING:
    from pruning.launcher import Launcher
    from pruning.runs.prepare import Prepared

log = logging.getLogger(__name__)

SETTLED = 5.0  # seconds to wait for a result after a job has ended; then its cell counts as failed or lost
USUAL = {"", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Dependency", SLOT}
POLL = (1.0, 15.0)  # limits of the pause between two checks, in seconds; the pause grows with the cells


@contextmanager
def submission_lock(results: Path) -> Iterator[None]:
    """Lock out other commands that submit; cancel the SLURM jobs of a command that died while it submitted."""
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
    """Prepared cells as tasks, in the order in which they are submitted."""
    return ordered([_task(ready) for ready in prepared], order)


def _task(ready: Prepared) -> QueuedCell:
    from pruning.core.hashing import digest
    from pruning.launcher.job import specification

    cell, identity = ready.cell, ready.cell.identity()
    group = digest({name: identity[name] for name in ("model", "objective", "calibration", "seed")})
    config, choices = specification(cell)
    files = (digests_of(cell.evaluation.files()), digests_of(cell.heal.files()))
    return QueuedCell(cell.key, config, choices, cell.model.resources, ready.evaluations, group, *files)


def settle(launcher: Launcher, results: Path, keys: Sequence[str]) -> dict[str, CellState]:
    """Wait until no cell is in flight; returns the final state of each cell, by key."""
    ended: dict[str, CellState] = {}
    doubtful: dict[str, float] = {}
    shown = ""
    while True:
        launcher.step()
        open_keys = [key for key in keys if key not in ended]
        try:
            states = cell_states(results, open_keys)
        except InputError as error:  # keep waiting: the scheduler is perhaps restarting
            log.warning("%s", error)
            time.sleep(POLL[1])
            continue
        now = time.monotonic()
        for key, cell in states.items():
            if cell.state.in_flight:
                doubtful.pop(key, None)
            elif cell.state is State.DONE or now - doubtful.setdefault(key, now) >= SETTLED:
                ended[key] = cell
        if (line := summary([*ended.values(), *(s for k, s in states.items() if k not in ended)])) != shown:
            log.info("%s", shown := line)
        if len(ended) == len(keys):
            launcher.finish()
            return ended
        time.sleep(min(POLL[1], POLL[0] + len(open_keys) / 50))


def summary(cells: Sequence[CellState]) -> str:
    """The number of cells in each state, and every unusual reason for which cells wait."""
    counts = Counter(cell.state for cell in cells)
    text = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    unusual = {cell.reason for cell in cells if cell.state is State.PENDING} - USUAL
    return f"cells: {text}" + (f" (some wait: {', '.join(sorted(unusual))})" if unusual else "")


def failure(cell: CellState) -> Failure:
    """The entry of a failed or lost cell in the table of failures."""
    kind, _, message = cell.reason.partition(": ")
    if not kind.isidentifier():  # the reason comes from the scheduler, not from an exception of the cell
        kind, message = cell.state.value, cell.reason
    return {"cell": cell.key, "error": {"type": kind, "message": message, "log": cell.log}}
