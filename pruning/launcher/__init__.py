"""Launchers: run the cells of a command in this process, in processes beside it, or as jobs of a SLURM cluster.

`conf/launcher/*.yaml` chooses a launcher; each launcher is one module here. The other modules are shared:

- `job.py`: what a job runs; a job holds strings and dicts, and first checks whether its result exists;
- `submissions.py`: the record of each submission, written before the scheduler is asked for anything;
- `cell_state.py`: the state of a cell, read from its own files first and then from the scheduler;
- `code_snapshot.py`: the copy of the code that jobs run, so that later changes do not affect waiting jobs;
- `submit.py`: submits cells and, if asked, waits for them;
- `actions.py`: `cancel` and `retry` of `python -m pruning.status`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from pruning.launcher.submission import QueuedCell


class Launcher(Protocol):
    """The interface of every launcher except `local`."""

    wait: bool
    order: str

    @property
    def waits(self) -> bool:
        """True if a command has to keep calling `step` until all cells have started."""
        ...

    def check(self, asked: Mapping[str, Any]) -> None:
        """Raise InputError if the settings or the resources cannot be met; `asked` holds resources by model name."""
        ...

    def submit(self, results: Path, tasks: Sequence[QueuedCell], where: str) -> None:
        """Record and submit tasks; may return before all have started.

        `where` is the working directory of the command: relative paths start there.
        """
        ...

    def step(self) -> bool:
        """Start waiting cells for which this launcher has a free slot; returns whether any still wait."""
        ...

    def finish(self) -> None:
        """Clean up after the last cell has ended."""
        ...
