"""Submit cells as jobs, one command at a time; wait for cells in flight; cancel and retry cells."""

from __future__ import annotations

import dataclasses
import json
import logging
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pruning.config.app import build
from pruning.config.groups import class_named
from pruning.core.errors import DamagedError, InputError
from pruning.core.records import CLASS, Failure, outward
from pruning.core.storage import digest, touch
from pruning.evaluation import digests_of
from pruning.launcher import scheduler
from pruning.launcher.cell_state import SLOT, CellState, StateName, cell_states
from pruning.launcher.scheduler import PROCESS, end, process
from pruning.launcher.submission import QueuedCell, Submission, latest, ordered, starting_lock, submissions

if TYPE_CHECKING:
    from pruning.launcher import Launcher
    from pruning.runs.cell import Cell, Prepared


log = logging.getLogger(__name__)

SETTLED = 5.0  # seconds to wait for a result after a job has ended; then its cell counts as failed or lost
USUAL = {"", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Dependency", SLOT}
POLL = (1.0, 15.0)  # limits of the pause between two checks, in seconds; the pause grows with the cells


@contextmanager
def submission_lock(results: Path) -> Iterator[None]:
    """Lock out other commands that submit; cancel the SLURM jobs of a command that died while it submitted."""
    (results / "jobs").mkdir(parents=True, exist_ok=True)
    with FileLock(results / "jobs" / ".lock"):
        for record in submissions(results):
            if record.complete or (not record.on_slurm and process(record.driver).active):
                continue
            if record.on_slurm:
                log.warning("a command died while it submitted %s: its jobs are cancelled", record.name)
                scheduler.call("scancel", "--quiet", f"--name={record.name}")
            record.complete = True
            record.save()
        yield


def tasks(prepared: Sequence[Prepared]) -> list[QueuedCell]:
    """Prepared cells as tasks, in the order in which they are submitted."""
    made = []
    for ready in prepared:
        cell, identity = ready.cell, ready.cell.identity()
        group = digest({name: identity[name] for name in ("model", "objective", "calibration", "seed")})
        files = (digests_of(cell.evaluation.files()), digests_of(cell.heal.files()))
        names, resources = specification(cell), cell.model.resources
        made.append(QueuedCell(cell.key, *names, resources, ready.evaluations, group, *files))
    return ordered(made)


def specification(cell: Cell) -> tuple[dict[str, Any], dict[str, str]]:
    """What a job needs to know about a cell: its configuration and the names of the chosen options."""
    return dict(cell.config), dataclasses.asdict(cell.choices)


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
            elif cell.state is StateName.DONE or now - doubtful.setdefault(key, now) >= SETTLED:
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
    text = ", ".join(f"{counts[state]} {state}" for state in StateName if counts[state])
    unusual = {cell.reason for cell in cells if cell.state is StateName.PENDING} - USUAL
    return f"cells: {text}" + (f" (some wait: {', '.join(sorted(unusual))})" if unusual else "")


def failure(cell: CellState) -> Failure:
    """The entry of a failed or lost cell in the table of failures."""
    kind, _, message = cell.reason.partition(": ")
    if not kind.isidentifier():  # the reason comes from the scheduler, not from an exception of the cell
        kind, message = cell.state.value, cell.reason
    return {"cell": cell.key, "error": {"type": kind, "message": message, "log": cell.log}}


def cancel(results: Path) -> int:
    """Cancel waiting cells and stop running ones; returns how many cells were in flight.

    Raises InputError if SLURM does not answer.
    """
    with submission_lock(results):
        with starting_lock(results):  # else a command could start a cell after its state was read
            for record in submissions(results):
                if not record.complete:
                    touch(record.cancelled)
            flying = {key: cell for key, cell in cell_states(results).items() if cell.state.in_flight}
        records = latest(results)
        for record in {records[key].name: records[key] for key in flying}.values():
            touch(record.cancelled)
            if record.on_slurm:
                scheduler.call("scancel", "--quiet", f"--name={record.name}")
        for cell in flying.values():
            if cell.job.startswith(PROCESS):
                end(cell.job, results)
    return len(flying)


def retry(results: Path, words: Sequence[str] = ()) -> list[tuple[Launcher, list[str]]]:
    """Submit failed and lost cells again with the current code; returns each launcher with its cells' keys.

    `words` repeat the recorded settings that run commands or write outside of the folder. Raises InputError if one is
    missing, or if a scheduler refuses or does not answer.
    """
    submitted = []
    with submission_lock(results):
        records = latest(results)
        bad = [
            key
            for key, cell in cell_states(results).items()
            if cell.state in (StateName.FAILED, StateName.LOST)
        ]
        _check_confirmed(results, [(records[key], records[key].task(key)) for key in bad], words)
        # Cells with the same launcher and the same working directory are submitted together.
        groups: dict[tuple[str, str], list[QueuedCell]] = {}
        for key in bad:
            launched = (json.dumps(records[key].launcher, sort_keys=True), records[key].where)
            groups.setdefault(launched, []).append(_into(results, records[key].task(key), launched[1]))
        for (settings, where), group in groups.items():
            launcher: Launcher = build("launcher", json.loads(settings))
            if not hasattr(launcher, "submit"):
                raise DamagedError(
                    f"a submission in {results / 'jobs'} names launcher.class={type(launcher).__name__}, which "
                    "submits nothing: move it away."
                )
            launcher.submit(results, ordered(group), where)
            submitted.append((launcher, [task.key for task in group]))
    return submitted


def _check_confirmed(
    results: Path, cells: Sequence[tuple[Submission, QueuedCell]], words: Sequence[str]
) -> None:
    """Raise InputError unless `words` are the settings that `_confirmed` lists for these cells."""
    found = (word for record, task in cells for word in _confirmed(record.launcher, task.config))
    needed = list(dict.fromkeys(found))
    if strange := [word for word in words if word not in needed]:
        raise InputError(
            f"{strange[0]} is not a recorded setting of the failed and lost cells: a retry changes no setting. "
            f"Give {shlex.join(needed) or 'no setting'}, or repeat the launch with other settings."
        )
    if missing := [word for word in needed if word not in words]:
        command = ["depth-pruning", "status", "retry", str(results), *needed]
        raise InputError(
            f"{', '.join(missing)}: recorded settings that run commands or write outside of {results} are used only "
            f"if the command gives them too, because the folder can come from somebody else. If they are right:\n"
            f"{shlex.join(command)}"
        )


def _confirmed(launcher: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the words that a retry must give: texts in the launcher's settings, and places outside of the folder."""
    usual = dataclasses.asdict(class_named("launcher", str(launcher[CLASS]))())
    for name, value in launcher.items():
        texts = isinstance(value, str | list | dict) and name != CLASS
        if texts and value != usual.get(name):
            yield f"launcher.{name}={value if isinstance(value, str) else json.dumps(value)}"
    yield from (f"{name}={value}" for name, value in outward(config).items())


def _into(results: Path, task: QueuedCell, where: str) -> QueuedCell:
    """A task whose result goes into this results folder, even if the folder was moved or copied."""
    paths = task.config.get("paths")
    if paths is None or (Path(where) / Path(paths["results"]).expanduser()).resolve() == results.resolve():
        return task
    return dataclasses.replace(task, config={**task.config, "paths": {**paths, "results": str(results)}})
