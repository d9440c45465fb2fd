"""Actions on submitted cells: cancel cells in flight, and submit failed and lost cells again."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.config.compose import recorded_launcher
from pruning.config.groups import class_named
from pruning.core.atomic_files import touch
from pruning.core.errors import DamagedError, InputError
from pruning.core.recorded import CLASS, outward
from pruning.launcher import slurm_queue, submit
from pruning.launcher.cell_state import State, cell_states
from pruning.launcher.local_pool import starting_lock
from pruning.launcher.local_process import end
from pruning.launcher.submission_order import ordered
from pruning.launcher.submissions import QueuedCell, Submission, latest, submissions

if TYPE_CHECKING:
    from pruning.launcher import Launcher


def cancel(results: Path) -> int:
    """Cancel waiting cells and stop running ones; returns how many cells were in flight.

    Raises InputError if SLURM does not answer.
    """
    with submit.submission_lock(results):
        with starting_lock(results):  # else a command could start a cell after its state was read
            for record in submissions(results):
                if not record.complete:
                    touch(record.cancelled)
            flying = {key: cell for key, cell in cell_states(results).items() if cell.state.in_flight}
        records = latest(results)
        for record in {records[key].name: records[key] for key in flying}.values():
            touch(record.cancelled)
            if record.on_slurm:
                slurm_queue.cancel_named(record.name)
        for cell in flying.values():
            if cell.job.startswith("process-"):
                end(cell.job, results)
    return len(flying)


def retry(results: Path, words: Sequence[str] = ()) -> list[tuple[Launcher, list[str]]]:
    """Submit failed and lost cells again with the current code; returns each launcher with its cells' keys.

    `words` repeat the recorded settings that run commands or write outside of the folder. Raises InputError if one is
    missing, or if a scheduler refuses or does not answer.
    """
    submitted = []
    with submit.submission_lock(results):
        records = latest(results)
        bad = [key for key, cell in cell_states(results).items() if cell.state in (State.FAILED, State.LOST)]
        _check_confirmed(results, [(records[key], records[key].task(key)) for key in bad], words)
        for (settings, where), tasks in _grouped(records, bad).items():
            launcher: Launcher = recorded_launcher(json.loads(settings))
            if not hasattr(launcher, "submit"):
                raise DamagedError(
                    f"a submission in {results / 'jobs'} names launcher.class={type(launcher).__name__}, which "
                    "submits nothing: move it away."
                )
            here = [_into(results, task, where) for task in tasks]
            launcher.submit(results, ordered(here, launcher.order), where)
            submitted.append((launcher, [task.key for task in tasks]))
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
        command = ["python", "-m", "pruning.status", "retry", str(results), *needed]
        raise InputError(
            f"{', '.join(missing)}: recorded settings that run commands or write outside of {results} are used only "
            f"if the command gives them too, because the folder can come from somebody else. If they are right:\n"
            f"{shlex.join(command)}"
        )


def _confirmed(launcher: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the words that a retry must give: texts in the launcher's settings, and places outside of the folder."""
    cls = class_named("launcher", str(launcher[CLASS]))
    usual = dataclasses.asdict(cls())
    for name, value in launcher.items():
        texts = isinstance(value, str | list | dict) and name not in (CLASS, "order")
        if texts and value != usual.get(name):
            yield f"launcher.{name}={value if isinstance(value, str) else json.dumps(value)}"
    yield from (f"{name}={value}" for name, value in outward(config).items())


def _into(results: Path, task: QueuedCell, where: str) -> QueuedCell:
    """A task whose result goes into this results folder, even if the folder was moved or copied."""
    paths = task.config.get("paths")
    if paths is None or (Path(where) / Path(paths["results"]).expanduser()).resolve() == results.resolve():
        return task
    return dataclasses.replace(task, config={**task.config, "paths": {**paths, "results": str(results)}})


def _grouped(records: Mapping[str, Submission], keys: list[str]) -> dict[tuple[str, str], list[QueuedCell]]:
    """Tasks grouped by launcher settings and by the working directory of the command."""
    groups: dict[tuple[str, str], list[QueuedCell]] = {}
    for key in keys:
        record = records[key]
        group = (json.dumps(record.launcher, sort_keys=True), record.where)
        groups.setdefault(group, []).append(record.task(key))
    return groups
