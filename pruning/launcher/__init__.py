"""Launchers: run the cells of a command in this process, in processes beside it, or as jobs of a SLURM cluster.

`conf/launcher/*.yaml` chooses a launcher: `local.py` has that of processes, `slurm.py` that of a cluster. Both run
`job.py`, a job that holds strings and dicts and first checks whether its result exists. `submission.py` has the
record of each submission, which is written before anything is started; `scheduler.py` asks for the states of jobs;
`cell_state.py` combines both with a cell's own files. `submit.py` waits for cells, and cancels and retries them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from pruning.launcher.submission import QueuedCell


@dataclass(frozen=True)
class InProcess:
    """Runs cells in this process; each model is loaded once for all its cells. It has no settings."""


class Launcher(Protocol):
    """The interface of every launcher except `local`."""

    wait: bool
    waits: ClassVar[bool]  # whether a command has to keep calling `step` until all cells have started

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
