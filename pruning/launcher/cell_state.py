"""The state of a submitted cell: read from the cell's files first, then from squeue, then from sacct."""

from __future__ import annotations

import enum
import fcntl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core.errors import PruningError
from pruning.core.records import LOG, DoneResult, names, read_result, read_study, same_settings
from pruning.evaluation import digests_of
from pruning.launcher import scheduler
from pruning.launcher.scheduler import PROCESS, Info, process
from pruning.launcher.submission import Submission, latest

if TYPE_CHECKING:
    from pruning.runs.cell import Cell

SLOT = "waits for a free slot"


class StateName(enum.StrEnum):
    """A failed cell ended for a known reason. A lost cell ended without a result and without a known reason."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"

    @property
    def in_flight(self) -> bool:
        """True if the cell waits or runs."""
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


def finished(cell: Cell) -> DoneResult | None:
    """The result of a cell; None unless the cell is done, evaluated and healed as requested on the current files.

    The scheduler is not asked.
    """
    result = cell.result()
    if result is None or result["status"] != "done" or not _has(result, cell.config):
        return None
    files = (digests_of(cell.evaluation.files()), digests_of(cell.heal.files()))
    return result if _read(result, *files) else None


def cell_states(results: Path, keys: Iterable[str] | None = None) -> dict[str, CellState]:
    """States of the submitted cells of a results folder, by key; if `keys` is given, only of the cells that it names.

    Raises InputError if a scheduler has to be asked and does not answer.
    """
    records = latest(results)
    chosen = {key: records[key] for key in (records if keys is None else keys) if key in records}
    # Ask about the jobs first. If a job has ended by then, the result that it wrote is read afterwards.
    jobs = {
        key: record.jobs[key]
        for key, record in chosen.items()
        if key in record.jobs and not _is_done(results / key, record, key)
    }
    queued = {job for job in jobs.values() if not job.startswith(PROCESS)}
    infos = scheduler.ask({chosen[key].name for key in jobs if jobs[key] in queued}, queued) if queued else {}
    infos |= {job: process(job) for job in jobs.values() if job not in queued}
    return {key: _state(results, key, record, infos.get(jobs.get(key, ""))) for key, record in chosen.items()}


# Cells that a command computes in its own process have no submission: their studies list them.


def all_states(results: Path) -> dict[str, CellState]:
    """States of the submitted cells, and of all others that the studies of a results folder list, by key.

    As long as one of the others runs, those without a result wait for their turn. Raises InputError as `cell_states`
    does.
    """
    states = cell_states(results)
    listed = (key for name in names(results) for key in read_study(results, name))
    others = [key for key in dict.fromkeys(listed) if key not in states]
    running = {key for key in others if _is_locked(results / key / ".lock")}
    for key in others:
        state, reason = _recorded(results / key)
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


def _recorded(folder: Path, since: str = "") -> tuple[StateName | None, str]:
    """How a cell has ended and why it failed, as its result says; (None, "") without a result after `since`."""
    try:
        result = read_result(folder)
    except (OSError, PruningError) as error:
        return StateName.FAILED, f"{type(error).__name__}: {error}"
    if result is not None and result["status"] == "done":
        return StateName.DONE, ""
    if result is None or result["environment"]["ended"] < since:
        return None, ""
    return StateName.FAILED, f"{result['error']['type']}: {result['error']['message']}"


def _is_done(folder: Path, record: Submission, key: str) -> bool:
    """Whether a cell has the result that its submission asked for; False if the result cannot be read."""
    try:
        result = read_result(folder)
    except (OSError, PruningError):
        return False
    task = record.task(key)
    if result is None or result["status"] != "done" or not _has(result, task.config):
        return False
    # A job reads its files when it runs, so a file that has changed since the submission is right, too.
    files = (task.files, task.heal_files)
    return _read(result, *files) or _read(result, *(digests_of(some, Path(record.where)) for some in files))


def _read(result: DoneResult, files: Mapping[str, str | None], heal_files: Mapping[str, str | None]) -> bool:
    """Whether the evaluation and the healing of a result have read files with these digests."""
    heal: Mapping[str, Any] = result.get("heal", {})
    healed = all(heal.get("file_sha256") == sha256 for sha256 in heal_files.values())
    return healed and files.items() <= result["evaluation"].get("files", {}).items()


def _has(result: DoneResult, config: Mapping[str, Any]) -> bool:
    """Whether a result has the evaluation and the healing that a configuration asks for."""
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


def _state(results: Path, key: str, record: Submission, info: Info | None) -> CellState:
    total = record.task(key).evaluations
    job, log = record.jobs.get(key, ""), str(record.log(key) or "")
    if _is_done(results / key, record, key):
        return CellState(key, StateName.DONE, "", job, log, total)
    if info is not None and info.active:
        state = StateName.PENDING if info.waiting else StateName.RUNNING
        return CellState(key, state, info.reason, job, log, total)
    if not (job or record.complete) and process(record.driver).active:
        return CellState(key, StateName.PENDING, SLOT, total=total)
    status, reason = _recorded(results / key, record.submitted)
    if status is StateName.FAILED:
        return CellState(key, status, reason, job, str(results / key / LOG), total)
    if info is not None and info.reason:
        return CellState(key, StateName.FAILED, info.reason, job, log, total)
    if record.cancelled.exists():
        return CellState(key, StateName.FAILED, "cancelled", job, log, total)
    reason = (
        "its job is gone, for no known reason" if job else "it was never submitted: its command was stopped"
    )
    return CellState(key, StateName.LOST, reason, job, log, total)
