"""Actions on submitted cells: cancel cells in flight, and submit failed and lost cells again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pruning.config.compose import recorded_launcher
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
                    record.cancelled.touch()
            flying = {key: cell for key, cell in cell_states(results).items() if cell.state.in_flight}
        records = latest(results)
        for record in {records[key].name: records[key] for key in flying}.values():
            record.cancelled.touch()
            if record.on_slurm:
                slurm_queue.cancel_named(record.name)
        for cell in flying.values():
            if cell.job.startswith("process-"):
                end(cell.job)
    return len(flying)


def retry(results: Path) -> list[tuple[Launcher, list[str]]]:
    """Submit failed and lost cells again with the current code; returns each launcher with its cells' keys.

    Raises InputError if a scheduler refuses or does not answer.
    """
    submitted = []
    with submit.submission_lock(results):
        bad = [key for key, cell in cell_states(results).items() if cell.state in (State.FAILED, State.LOST)]
        for (settings, where), tasks in _grouped(latest(results), bad).items():
            launcher: Launcher = recorded_launcher(json.loads(settings))
            launcher.submit(results, ordered(tasks, launcher.order), where)
            submitted.append((launcher, [task.key for task in tasks]))
    return submitted


def _grouped(records: Mapping[str, Submission], keys: list[str]) -> dict[tuple[str, str], list[QueuedCell]]:
    """Tasks grouped by launcher settings and by the working directory of the command."""
    groups: dict[tuple[str, str], list[QueuedCell]] = {}
    for key in keys:
        record = records[key]
        group = (json.dumps(record.launcher, sort_keys=True), record.where)
        groups.setdefault(group, []).append(record.task(key))
    return groups
