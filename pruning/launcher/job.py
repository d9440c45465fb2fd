"""A job of a launcher, which runs one cell on all of its ranks.

A job is pickled, so it contains only strings and dicts. A failure is recorded in the cell's result and raised
again, so that the scheduler also reports it. A job can be started again, even after it has finished. So it
looks for the cell's result first. If there is no result, the job resumes from the cell's files.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core.errors import BusyError
from pruning.core.records import commit
from pruning.core.terminal import prepare_process

if TYPE_CHECKING:
    from pruning.runs.cell import Cell


log = logging.getLogger(__name__)

BUSY_SECONDS = 600  # how long to retry a locked cell: if a job dies with its node, its lock can remain
BUSY_PAUSE = 5


@dataclass(frozen=True)
class Job:
    """A job: the key and configuration of a cell, and the working directory of its command."""

    key: str
    config: Mapping[str, Any]
    folder: str

    def __call__(self) -> str:
        """Run the cell; returns its key. Raises the error that made the cell fail."""
        prepare_process()
        os.chdir(self.folder)
        logging.basicConfig(format="%(message)s")
        logging.getLogger("pruning").setLevel(logging.INFO)
        from pruning.config.compose import recorded_cell

        cell = recorded_cell(self.config)
        if cell.key != self.key:
            raise RuntimeError(
                f"the input files of cell {self.key} have changed since it was submitted, so that its key is now "
                f"{cell.key}: submit it again."
            )
        from pruning.engine import collectives
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
        """The job to start after a time limit or a preemption: this job again, because its progress is in files."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _run(cell: Cell) -> None:
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
            try:
                record_failure(cell, error)
            except Exception:  # only the job's log and the scheduler then show the failure
                log.exception("the failure could not be recorded")
            raise


# The copy of the code that the jobs of one command run, in the results folder.
#
# A job may wait for days while the checkout is edited, so it runs this copy. submitit's own snapshot needs rsync and
# a git checkout, which an installed package does not have.

ROOT = Path(__file__).parents[2]
PARTS = ("pruning", "conf")
ANALYSIS = ROOT / "pruning" / "analysis"  # exists only in an installed package; no job needs it
COMMIT = "COMMIT"  # the file that contains the commit: a copy has no git history


def snapshot(results: Path) -> Path:
    """Copy the program's code into a new folder in the results folder; returns the new folder."""
    (results / "code").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-", dir=results / "code"))
    for path in (path for part in PARTS for path in (ROOT / part).rglob("*") if path.is_file()):
        if path.suffix not in (".pyc", ".pyo") and ANALYSIS not in path.parents:
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    (folder / COMMIT).write_text(commit() or "")
    return folder


def job_environment(code: Path) -> list[str]:
    """Shell lines that make Python import the copy of the code, not the files in the job's working directory."""
    return [
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1",
    ]
