"""What a job runs: one cell, on all of the job's ranks.

It is pickled, so it holds strings and dicts only. Whatever fails is recorded in the cell's result and raised again,
so that the scheduler's state is true. A job may be started more than once (time limit, preemption, a lost node, an
administrator), even after it had finished: it looks for its result first, and otherwise goes on from the files.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruning.runs.cell import Cell

log = logging.getLogger(__name__)

BUSY_SECONDS = 600  # a job that died with its node may hold the cell for a while
BUSY_PAUSE = 5


@dataclass(frozen=True)
class Job:
    """A cell, and the folder in which its command was given."""

    key: str
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    folder: str

    def __call__(self) -> str:
        """Run the cell; returns its key. Raises what made it fail."""
        os.chdir(self.folder)
        _log()
        from pruning.config.compose import recorded_cell

        cell = recorded_cell(self.config, self.choices)
        if cell.key != self.key:
            raise RuntimeError(
                f"the files of {self.key} have changed since it was submitted: it is {cell.key} now."
            )
        from pruning.distributed import collectives
        from pruning.launcher.cell_state import finished

        with collectives.joined_ranks():
            if collectives.on_first(lambda: finished(cell) is not None):
                log.info("%s is done", cell.key)
            else:
                _run(cell)
        # A warning that comes now has nothing to save; while Python exits it would kill a job that has succeeded.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        return cell.key

    def checkpoint(self) -> Any:
        """What submitit starts again after a time limit or a preemption: the same, since the state is in files."""
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
    """Record a failure, unless that fails too: then the job's own log and the scheduler's state have to do."""
    try:
        action()
    except Exception:
        log.exception("the failure could not be recorded")


def _log() -> None:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("pruning").setLevel(logging.INFO)


def specification(cell: Cell) -> tuple[dict[str, Any], dict[str, str]]:
    """What a job needs to know of a cell: its configuration and the names of its options."""
    names = cell.choices
    choices = {"objective": names.objective, "calibration": names.calibration, "algo": names.algo}
    return dict(cell.config), choices
