"""What a job runs: one cell, on all of the job's ranks.

A job is pickled, so it holds strings and dicts only. A failure is recorded in the cell's result and raised again, so
that the scheduler reports it too. A job may be started more than once (time limit, preemption, a lost node, an
administrator), even after it has finished. So each start first looks for the cell's result. If there is none, the job
resumes from the cell's files.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pruning.core.pages import prepare_process

if TYPE_CHECKING:
    from pruning.runs.cell import Cell

log = logging.getLogger(__name__)

BUSY_SECONDS = 600  # how long to retry a locked cell: if a job died with its node, its lock can remain
BUSY_PAUSE = 5


@dataclass(frozen=True)
class Job:
    """A cell, and the working directory of its command."""

    key: str
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    folder: str

    def __call__(self) -> str:
        """Run the cell; returns its key. Raises the error that made the cell fail."""
        prepare_process()
        os.chdir(self.folder)
        _log()
        from pruning.config.compose import recorded_cell

        cell = recorded_cell(self.config, self.choices)
        if cell.key != self.key:
            raise RuntimeError(
                f"the input files of cell {self.key} have changed since it was submitted, so that its key is now "
                f"{cell.key}: submit it again."
            )
        from pruning.distributed import collectives
        from pruning.launcher.cell_state import finished

        with collectives.joined_ranks():
            if collectives.on_first(lambda: finished(cell) is not None):
                log.info("%s is done", cell.key)
            else:
                _run(cell)
        # Ignore warning signals: nothing is left to save, and a signal during exit would kill a finished job.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        return cell.key

    def checkpoint(self) -> Any:
        """The job to start after a time limit or a preemption: this job again, because all state is in files."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _run(cell: Cell) -> None:
    from pruning.core.errors import BusyError
    from pruning.runs.prepare import prepare
    from pruning.runs.run_cell import record_failure, run

    started = time.monotonic()
    while True:
        try:
            run(prepare(cell))
            return
        except BusyError:
            if time.monotonic() - started > BUSY_SECONDS:
                raise
            time.sleep(BUSY_PAUSE)
        except Exception as error:
            _record(partial(record_failure, cell, error))
            raise


def _record(action: Callable[[], Any]) -> None:
    """Record a failure; if that fails too, only the job's log and the scheduler show it."""
    try:
        action()
    except Exception:
        log.exception("the failure could not be recorded")


def _log() -> None:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("pruning").setLevel(logging.INFO)


def specification(cell: Cell) -> tuple[dict[str, Any], dict[str, str]]:
    """What a job needs to know about a cell: its configuration and the names of the chosen options."""
    return dict(cell.config), dataclasses.asdict(cell.choices)
