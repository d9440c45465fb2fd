"""What can be done about cells that were submitted: cancel those in flight, submit again those that ended badly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.launcher import drive, queue
from pruning.launcher.order import ordered
from pruning.launcher.process import end
from pruning.launcher.records import Submission, Task, latest
from pruning.launcher.states import State, standings

if TYPE_CHECKING:
    from pruning.launcher import Launcher


def cancel(results: Path) -> int:
    """Take out of the queue what waits and stop what runs; returns how many cells that were.

    Raises InputError where SLURM does not answer.
    """
    with drive.submitting(results):
        flying = {key: found for key, found in standings(results).items() if found.state.in_flight}
        records = latest(results)
        for record in {records[key].name: records[key] for key in flying}.values():
            record.cancelled.touch()
            if record.on_slurm:
                queue.cancel_named(record.name)
        for found in flying.values():
            if found.job.startswith("process-"):
                end(found.job)
    return len(flying)


def retry(results: Path) -> list[tuple[Launcher, list[str]]]:
    """Submit failed and lost cells again, as they were but with the code of today; returns launchers and their cells.

    Raises InputError where a scheduler refuses or does not answer.
    """
    submitted = []
    with drive.submitting(results):
        bad = [key for key, found in standings(results).items() if found.state in (State.FAILED, State.LOST)]
        for (settings, where), tasks in _alike(latest(results), bad).items():
            launcher = _launcher(json.loads(settings))
            launcher.submit(results, ordered(tasks, launcher.order), where)
            submitted.append((launcher, [task.key for task in tasks]))
    return submitted


def _alike(records: Mapping[str, Submission], keys: list[str]) -> dict[tuple[str, str], list[Task]]:
    """Tasks by what they are to be submitted with: the settings of a launcher, and the folder of the command."""
    groups: dict[tuple[str, str], list[Task]] = {}
    for key in keys:
        record = records[key]
        group = (json.dumps(record.launcher, sort_keys=True), record.where)
        groups.setdefault(group, []).append(record.task(key))
    return groups


def _launcher(settings: Mapping[str, Any]) -> Launcher:
    from hydra.utils import instantiate

    launcher: Launcher = instantiate(settings, _convert_="all")
    return launcher


def collect(results: Path) -> int:
    """Record every cell that has a result, with its tracker; returns how many there are.

    Raises what a tracker raises.
    """
    from pruning.track import trackers

    found = trackers(results)
    for tracker, folders in found:
        tracker.record(results, folders)
    return sum(len(folders) for _, folders in found)
