"""The state of a submitted cell: read from the cell's files first, then from squeue, then from sacct."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from pruning.core.errors import PruningError, first_line
from pruning.core.records import LOG, DoneResult, read_result, same_settings
from pruning.core.scoring import NAME, read_trace
from pruning.evaluation import digests_of
from pruning.launcher import submission
from pruning.launcher.submission import Submission, latest, process

if TYPE_CHECKING:
    from pruning.runs.cell import Cell


SLOT = "waits for a free slot"


class State(enum.StrEnum):
    """A failed cell ended for a known reason. A lost cell ended without a result and without a known reason."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"

    @property
    def in_flight(self) -> bool:
        """True if the cell waits or runs."""
        return self in (State.PENDING, State.RUNNING)


@dataclass(frozen=True)
class CellState:
    """The state of a cell, the reason why it failed or waits, its job, and the path of its log."""

    key: str
    state: State
    reason: str = ""
    job: str = ""
    log: str = ""
    total: int = 0  # the largest number of evaluations that the search can ask for
    running: float = 0.0  # how long the job has been running, in seconds


def finished(cell: Cell) -> DoneResult | None:
    """The result of a cell; None unless the cell is done, evaluated and healed as requested on the current files.

    The scheduler is not asked.
    """
    result = cell.result()
    if result is None or result["status"] != "done":
        return None
    if not _has(result, cell.config):
        return None
    files = (digests_of(cell.evaluation.files()), digests_of(cell.heal.files()))
    return result if _read(result, *files) else None


def cell_states(results: Path, keys: Iterable[str] | None = None) -> dict[str, CellState]:
    """States of the submitted cells of a results folder, by key; if `keys` is given, only of the cells that it names.

    Raises InputError if a scheduler has to be asked and does not answer.
    """
    records = latest(results)
    chosen = {key: records[key] for key in (records if keys is None else keys) if key in records}
    unfinished = {key: record for key, record in chosen.items() if not _is_done(results / key, record, key)}
    # Ask about the jobs first. If a job has ended by then, the result that it wrote is read afterwards.
    infos = _jobs(unfinished)
    return {key: _state(results, key, record, infos.get(key)) for key, record in chosen.items()}


def _jobs(chosen: Mapping[str, Submission]) -> dict[str, submission.Info]:
    names = {key: record.jobs[key] for key, record in chosen.items() if key in record.jobs}
    slurm = {key: job for key, job in names.items() if not job.startswith("process-")}
    infos = {key: process(job) for key, job in names.items() if key not in slurm}
    if slurm:
        queued = submission.ask({chosen[key].name for key in slurm}, set(slurm.values()))
        infos |= {key: queued[job] for key, job in slurm.items() if job in queued}
    return infos


def _is_done(folder: Path, record: Submission, key: str) -> bool:
    """Whether a cell has the result that its submission asked for; False if the result cannot be read."""
    try:
        result = read_result(folder)
    except (OSError, PruningError):
        return False
    if result is None or result["status"] != "done":
        return False
    task = record.task(key)
    if not _has(result, task.config):
        return False
    # A job reads its files when it runs, so a file that has changed since the submission is right, too.
    files = (task.files, task.heal_files)
    return _read(result, *files) or _read(result, *(digests_of(some, Path(record.where)) for some in files))


def _read(result: DoneResult, files: Mapping[str, str | None], heal_files: Mapping[str, str | None]) -> bool:
    """Whether the evaluation and the healing of a result have read files with these digests.

    Healings of older versions have no digest of their file; they stay valid.
    """
    heal: Mapping[str, Any] = result.get("heal", {})
    healed = all(heal.get("file_sha256", sha256) == sha256 for sha256 in heal_files.values())
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


def _state(results: Path, key: str, record: Submission, info: submission.Info | None) -> CellState:
    total = record.task(key).evaluations
    job, log = record.jobs.get(key, ""), str(record.log(key) or "")
    if _is_done(results / key, record, key):
        return CellState(key, State.DONE, "", job, log, total)
    if info is not None and info.active:
        state = State.PENDING if info.waiting else State.RUNNING
        return CellState(key, state, info.reason, job, log, total, info.seconds)
    if not (job or record.complete) and process(record.driver).active:
        return CellState(key, State.PENDING, SLOT, total=total)
    if (reason := _failure(results / key, record)) is not None:
        return CellState(key, State.FAILED, reason, job, str(results / key / LOG), total)
    if info is not None and info.reason:
        return CellState(key, State.FAILED, info.reason, job, log, total)
    if record.cancelled.exists():
        return CellState(key, State.FAILED, "cancelled", job, log, total)
    reason = (
        "its job is gone, for no known reason" if job else "it was never submitted: its command was stopped"
    )
    return CellState(key, State.LOST, reason, job, log, total)


def _failure(folder: Path, record: Submission) -> str | None:
    """The failure that the cell itself recorded; None if it has recorded none since this submission."""
    try:
        result = read_result(folder)
    except (OSError, PruningError) as error:
        return f"{type(error).__name__}: {error}"
    if result is None or result["status"] == "done" or result["environment"]["ended"] < record.submitted:
        return None
    return f"{result['error']['type']}: {result['error']['message']}"


# The table of `python -m pruning.status`: one row per cell; failed, lost and running cells come first.

ORDER = (State.FAILED, State.LOST, State.RUNNING, State.PENDING, State.DONE)
COLOURS = {State.FAILED: "red", State.LOST: "red", State.RUNNING: "cyan", State.DONE: "green"}


@dataclass(frozen=True)
class Advance:
    """The progress of a search: masks scored, and the estimated seconds left, or None if there is no estimate."""

    scored: int
    left: float | None


def advance(folder: Path, total: int) -> Advance:
    """Read the progress of a cell from its journal; its search asks for `total` masks at most.

    The time left is the mean time of the evaluations that the cell computed itself, times the number of masks left.
    This estimate is too long if other cells compute some of these masks.
    """
    lines = [entry.line for entry in read_trace(folder / NAME) if entry.line is not None]
    masks, seconds = {tuple(line["dropped"]) for line in lines}, [line["seconds"] for line in lines]
    scored = min(len(masks - {()}), total)
    paid = [time for time in seconds if time > 0]
    return Advance(scored, (total - scored) * sum(paid) / len(paid) if paid else None)


def status_table(results: Path, cells: Mapping[str, CellState], rows: int | None = None) -> Table:
    """The table of some cells; if `rows` is given, only the first `rows` cells and the number of the others."""
    counts = Counter(cell.state for cell in cells.values())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("cell", "state", "scored", "left", "job"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("scored", "left") else "left")
    table.add_column("reason, log", overflow="fold")
    ranked = sorted(cells.values(), key=lambda cell: ORDER.index(cell.state))
    for cell in ranked[:rows]:
        table.add_row(*_row(results, cell), style=COLOURS.get(cell.state))
    hidden = len(ranked) - len(ranked[:rows])
    summary = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    table.caption = f"{len(cells)} cells: {summary}" + (f"; {hidden} not shown" if hidden else "")
    table.caption_justify = "left"
    return table


def _row(results: Path, cell: CellState) -> tuple[str, ...]:
    scored = left = ""
    if cell.state is State.RUNNING:
        progress = advance(results / cell.key, cell.total)
        scored = f"{progress.scored}/{cell.total}"
        left = "" if progress.left is None else duration(progress.left)
    reason = first_line(Exception(cell.reason)) if cell.reason else ""
    if cell.state in (State.FAILED, State.LOST) and cell.log:
        reason += f": {cell.log}"
    return cell.key, cell.state.value, scored, left, cell.job.removeprefix("process-"), reason


def duration(seconds: float) -> str:
    """Seconds as `3:07` or `12:03:07`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
