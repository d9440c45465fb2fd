"""What can be done about cells that were submitted: cancel those in flight, submit again those that ended badly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pruning.config.compose import recorded_launcher
from pruning.launcher import slurm_queue, submit
from pruning.launcher.cell_state import State, cell_states
from pruning.launcher.local_process import end
from pruning.launcher.submission_order import ordered
from pruning.launcher.submissions import QueuedCell, Submission, latest

if TYPE_CHECKING:
    from pruning.launcher import Launcher


def cancel(results: Path) -> int:
    """Take out of the queue what waits and stop what runs; returns how many cells that were.

    Raises InputError where SLURM does not answer.
    """
    with submit.submission_lock(results):
        flying = {key: found for key, found in cell_states(results).items() if found.state.in_flight}
        records = latest(results)
        for record in {records[key].name: records[key] for key in flying}.values():
            record.cancelled.touch()
            if record.on_slurm:
                slurm_queue.cancel_named(record.name)
        for found in flying.values():
            if found.job.startswith("process-"):
                end(found.job)
    return len(flying)


def retry(results: Path) -> list[tuple[Launcher, list[str]]]:
    """Submit failed and lost cells again, as they were but with the code of today; returns launchers and their cells.

    Raises InputError where a scheduler refuses or does not answer.
    """
    submitted = []
    with submit.submission_lock(results):
        bad = [
            key for key, found in cell_states(results).items() if found.state in (State.FAILED, State.LOST)
        ]
        for (settings, where), tasks in _alike(latest(results), bad).items():
            launcher: Launcher = recorded_launcher(json.loads(settings))
            launcher.submit(results, ordered(tasks, launcher.order), where)
            submitted.append((launcher, [task.key for task in tasks]))
    return submitted


def _alike(records: Mapping[str, Submission], keys: list[str]) -> dict[tuple[str, str], list[QueuedCell]]:
    """Tasks by what they are to be submitted with: the settings of a launcher, and the folder of the command."""
    groups: dict[tuple[str, str], list[QueuedCell]] = {}
    for key in keys:
        record = records[key]
        group = (json.dumps(record.launcher, sort_keys=True), record.where)
        groups.setdefault(group, []).append(record.task(key))
    return groups
