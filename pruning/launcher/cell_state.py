"""Find the state of a cell from its files, squeue and sacct. Wait for submitted cells, and cancel them."""

from __future__ import annotations

import enum
import fcntl
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.calibration import digests_of
from pruning.core.errors import InputError, PruningError
from pruning.core.records import LOG, DoneResult, Failure, names, read_result, read_study, same_settings
from pruning.launcher import scheduler
from pruning.launcher.scheduler import Info
from pruning.launcher.submission import Submission, latest, lock_of, submission_lock

if TYPE_CHECKING:
    from pruning.runs.cell import Cell

log = logging.getLogger(__name__)

SETTLED = 5.0  # seconds to wait for the result of an ended job; without a result, the cell is failed or lost
POLL = (1.0, 15.0)  # limits, in seconds, of the pause between two checks; more cells mean longer pauses


class StateName(enum.StrEnum):
    """A failed cell has failed for a known reason. A lost cell has ended without a result, for no known reason."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"

    @property
    def in_flight(self) -> bool:
        """Whether the cell waits or runs."""
        return self in (StateName.PENDING, StateName.RUNNING)


@dataclass(frozen=True)
class CellState:
    """The state of a cell, the reason why it failed or waits, its job, and the path of its log."""

    key: str
    state: StateName
    reason: str = ""
    job: str = ""
    log: str = ""
    total: int = 0  # the largest number of evaluations that the search can ask for

    def failure(self) -> Failure:
        """The entry of a failed or lost cell in the table of failures."""
        kind, _, message = self.reason.partition(": ")
        if not kind.isidentifier():  # the reason comes from the scheduler, and not from an exception
            kind, message = self.state.value, self.reason
        return {"cell": self.key, "error": {"type": kind, "message": message, "log": self.log}}


# The states of cells that have a result.


def finished(cell: Cell) -> DoneResult | None:
    """A cell's result if it is done, evaluated and healed as configured, with unchanged input files; else None."""
    result = cell.result()
    if result is None or result["status"] != "done" or not _has(result, cell.config):
        return None
    heal: Mapping[str, Any] = result.get("heal", {})
    healed = all(heal.get("file_sha256") == sha256 for sha256 in digests_of(cell.heal).values())
    read = digests_of(cell.evaluation).items() <= result["evaluation"].get("files", {}).items()
    return result if healed and read else None


def _has(result: DoneResult, config: Mapping[str, Any]) -> bool:
    known, wanted = result["config"], config.get("eval")
    if not same_settings(known.get("eval"), wanted):
        return False
    if "heal" not in config:
        return True
    evaluation = result["evaluation"]
    kinds = evaluation.get("records", {})
    current = [m for m, settings in evaluation.get("settings", {}).items() if same_settings(settings, wanted)]
    measured = all("healed" in kinds.get(metric, {}) for metric in current if metric != "speed")
    return "heal" in result and same_settings(known.get("heal"), config["heal"]) and measured


def recorded_state(folder: Path, since: str = "") -> tuple[StateName | None, str]:
    """A cell's final state, and why it failed; (None, "") if it has no result or failed before `since`."""
    try:
        result = read_result(folder)
    except (OSError, PruningError) as error:
        return StateName.FAILED, f"{type(error).__name__}: {error}"
    if result is not None and result["status"] == "done":
        return StateName.DONE, ""
    if result is None or result["environment"]["ended"] < since:
        return None, ""
    return StateName.FAILED, f"{result['error']['type']}: {result['error']['message']}"


# The states of submitted cells, and of the cells that commands compute themselves.


def cell_states(results: Path, keys: Iterable[str] | None = None) -> dict[str, CellState]:
    """The states of a results folder's submitted cells, by key; if `keys` is given, only of the cells in `keys`.

    SLURM is asked about all cells in `keys` or, if `keys` is None, about all cells that are not done. Raises
    InputError if SLURM does not answer.
    """
    records = latest(results)
    chosen = {key: records[key] for key in (records if keys is None else keys) if key in records}
    # Ask SLURM before reading results, so that the results of jobs which have ended by then are read.
    jobs = {
        key: record.jobs[key]
        for key, record in chosen.items()
        if key in record.jobs and not (keys is None and _is_done(results / key, record, key))
    }
    infos = scheduler.ask({chosen[key].name for key in jobs}, {*jobs.values()}) if jobs else {}
    return {key: _state(results, key, record, infos.get(jobs.get(key, ""))) for key, record in chosen.items()}


def _is_done(folder: Path, record: Submission, key: str) -> bool:
    """Whether a cell is done, evaluated and healed as submitted; False if its result cannot be read."""
    with suppress(OSError, PruningError):
        result = read_result(folder)
        return result is not None and result["status"] == "done" and _has(result, record.tasks[key].config)
    return False


def _state(results: Path, key: str, record: Submission, info: Info | None) -> CellState:
    job, log_file = record.jobs.get(key, ""), str(record.log(key) or "")

    def state(name: StateName, reason: str = "", log_file: str = log_file) -> CellState:
        return CellState(key, name, reason, job, log_file, record.tasks[key].evaluations)

    if info is not None and info.active:
        return state(StateName.PENDING if info.waiting else StateName.RUNNING, info.reason)
    if _is_done(results / key, record, key):
        return state(StateName.DONE)
    if not (job or record.complete) and _is_locked(lock_of(results)):
        return state(StateName.PENDING, "is being submitted")
    status, reason = recorded_state(results / key, record.submitted)
    if status is StateName.FAILED:
        return state(status, reason, str(results / key / LOG))
    if info is not None and info.reason:
        return state(StateName.FAILED, info.reason)
    if record.cancelled.exists():
        return state(StateName.FAILED, "cancelled")
    gone = (
        "its job is gone, for no known reason" if job else "it was never submitted: its command was stopped"
    )
    return state(StateName.LOST, gone)


def all_states(results: Path) -> dict[str, CellState]:
    """The states, by key, of a results folder's cells: the submitted ones, and all others in its studies.

    A command runs unsubmitted cells itself. While any of them runs, unsubmitted cells without a result count as
    waiting. Raises the errors of `cell_states`.
    """
    states = cell_states(results)
    listed = (key for name in names(results) for key in read_study(results, name))
    others = [key for key in dict.fromkeys(listed) if key not in states]
    running = {key for key in others if _is_locked(results / key / ".lock")}
    for key in others:
        state, reason = recorded_state(results / key)
        if key in running:
            state, reason = StateName.RUNNING, ""
        elif state is None and running:
            state, reason = StateName.PENDING, "waits for its turn"
        elif state is None:
            state, reason = StateName.LOST, "its command has ended: the same command continues"
        states[key] = CellState(key, state, reason, log=str(results / key / LOG))
    return states


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file; False if that cannot be known."""
    with suppress(OSError), path.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# Wait for submitted cells, or cancel them.


def settle(results: Path, keys: Sequence[str]) -> dict[str, CellState]:
    """Wait until none of these submitted cells waits or runs; returns their final states, by key."""
    ended: dict[str, CellState] = {}
    doubtful: dict[str, float] = {}
    shown = ""
    while len(ended) < len(keys):
        open_keys = [key for key in keys if key not in ended]
        try:
            states = cell_states(results, open_keys)
        except InputError as error:  # keep waiting: the scheduler may be restarting
            log.warning("%s", error)
            time.sleep(POLL[1])
            continue
        now = time.monotonic()
        for key, cell in states.items():
            if cell.state.in_flight:
                doubtful.pop(key, None)
            elif cell.state is StateName.DONE or now - doubtful.setdefault(key, now) >= SETTLED:
                ended[key] = cell
        if (line := summary((states | ended).values())) != shown:
            log.info("cells: %s", shown := line)
        if len(ended) < len(keys):
            time.sleep(min(POLL[1], POLL[0] + len(open_keys) / 50))
    return ended


def summary(cells: Iterable[CellState]) -> str:
    """A text with the number of cells in each state."""
    counts = Counter(cell.state for cell in cells)
    return ", ".join(f"{counts[state]} {state}" for state in StateName if counts[state])


def cancel(results: Path) -> int:
    """Cancel waiting cells and stop running ones; returns how many cells were cancelled or stopped."""
    with submission_lock(results):
        flying = [key for key, cell in cell_states(results).items() if cell.state.in_flight]
        records = latest(results)
        for record in {records[key].name: records[key] for key in flying}.values():
            record.cancel()
    return len(flying)
