"""Where the cells of a command run: in this process, in processes beside it, or as jobs of a SLURM cluster.

`conf/launcher/*.yaml` chooses one, and each is one file here. What all share:

- `job.py`, what a job runs: strings and a dict, and its first act is to look whether the result is there;
- `records.py`, what was submitted, in one file a submission, begun before the scheduler is asked for anything;
- `states.py`, what became of a cell: its own files are believed first, then the scheduler;
- `code.py`, the copy of the code that jobs run, so that a change of it does not reach those that wait;
- `drive.py`, the command that submits and, if asked, waits; `actions.py`, what `python -m pruning.status` can do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from pruning.launcher.submissions import QueuedCell


class Launcher(Protocol):
    """What a launcher other than `local` offers."""

    wait: bool
    order: str

    @property
    def waits(self) -> bool:
        """Whether somebody has to go on calling `step` for its cells to start."""
        ...

    def check(self, asked: Mapping[str, Any]) -> None:
        """Raise InputError for settings or resources (by model name) that cannot be met."""
        ...

    def submit(self, results: Path, tasks: Sequence[QueuedCell], where: str) -> None:
        """Hand tasks over, recording each; may return before all have started.

        `where` is the folder of the command, in which relative paths start.
        """
        ...

    def step(self) -> bool:
        """Start what waits for a place here; whether anything still does."""
        ...

    def finish(self) -> None:
        """Tidy up after the last cell has ended."""
        ...
