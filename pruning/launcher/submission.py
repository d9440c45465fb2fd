"""Records of submissions: `submission.json` is written before jobs are submitted, and again with the jobs' ids.

If a command dies while it submits jobs, its record stays incomplete. Before the next command submits jobs, it
finds the jobs of the incomplete submission by the submission's name, and cancels them.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pruning.core import storage
from pruning.core.errors import DamagedError
from pruning.launcher import scheduler
from pruning.models.handle import Resources

if TYPE_CHECKING:
    from pruning.runs.cell import Prepared

log = logging.getLogger(__name__)

NAME = "submission.json"


@dataclass(frozen=True)
class QueuedCell:
    """A cell that is to run as a job."""

    key: str
    config: Mapping[str, Any]  # in the recorded form: options and classes are names
    resources: Resources
    evaluations: int  # an upper bound on the number of losses that the cell's search asks for


@dataclass
class Submission:
    """The record of tasks (cells to run as jobs) that were submitted together as one job array."""

    folder: Path
    tasks: dict[str, QueuedCell]
    submitted: str  # the time of submission in UTC
    code: str  # the folder in `code` with the copy of the code that the jobs run
    where: str  # the working directory of the command, to which paths are relative
    jobs: dict[str, str] = field(default_factory=dict)  # SLURM's job ids, by the keys of cells
    complete: bool = False  # whether SLURM has answered; also true if it refused the jobs

    @property
    def name(self) -> str:
        """The name that all jobs of this submission have in the scheduler."""
        return self.folder.name

    @classmethod
    def begin(cls, results: Path, tasks: Sequence[QueuedCell], code: Path, where: str) -> Submission:
        """Write and return the record of tasks that are about to be submitted."""
        now = datetime.now(UTC)
        folder = results / "jobs" / f"cells-{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"
        begun = cls(folder, {task.key: task for task in tasks}, now.isoformat(), code.name, where)
        begun.save()
        return begun

    def save(self) -> None:
        """Write the record."""
        data = asdict(self)
        del data["folder"]
        storage.write_json(self.folder / NAME, data)

    @classmethod
    def load(cls, path: Path) -> Submission:
        """Read a record. Raises DamagedError if the file does not contain a record."""
        data = storage.read_json(path)
        try:
            for key, task in data["tasks"].items():
                data["tasks"][key] = QueuedCell(**{**task, "resources": Resources(**task["resources"])})
            return cls(path.parent, **data)
        except (AttributeError, KeyError, TypeError) as error:
            raise DamagedError(f"{path} is damaged (no record of jobs: {error}): move it away.") from error

    @property
    def cancelled(self) -> Path:
        """A file that exists if the cells of this submission were cancelled."""
        return self.folder / "cancelled"

    def cancel(self) -> None:
        """Cancel all jobs of this submission. Raises InputError if SLURM does not answer."""
        self.cancelled.touch()
        scheduler.call("scancel", "--quiet", f"--name={self.name}")

    def log(self, key: str) -> Path | None:
        """The log of the first rank of a cell's job; None if the cell has no job."""
        return self.folder / f"{self.jobs[key]}_0_log.err" if key in self.jobs else None


def submissions(results: Path) -> Iterator[Submission]:
    """Yield all records in a results folder, the oldest first."""
    for path in sorted((results / "jobs").glob(f"cells-*/{NAME}")):
        yield Submission.load(path)


def latest(results: Path) -> dict[str, Submission]:
    """The most recent submission of each submitted cell, by the cell's key."""
    return {key: record for record in submissions(results) for key in record.tasks}


def lock_of(results: Path) -> Path:
    """The file that is locked while a command submits."""
    return results / "jobs" / ".lock"


@contextmanager
def submission_lock(results: Path) -> Iterator[None]:
    """In this context, only this command can submit; first, it cancels the jobs of commands that died submitting."""
    lock_of(results).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_of(results)):
        for record in submissions(results):
            if not record.complete:
                log.warning("a command died while it submitted %s: its jobs are cancelled", record.name)
                record.cancel()
                record.complete = True
                record.save()
        yield


def tasks(prepared: Sequence[Prepared]) -> list[QueuedCell]:
    """Prepared cells as tasks in the order of their submission: the shortest search comes first.

    Cells share computed losses, so a longer search can reuse those of shorter searches on the same samples.
    """
    cells = [(ready.cell, ready.evaluations) for ready in prepared]
    made = [QueuedCell(cell.key, cell.config, cell.model.resources, most) for cell, most in cells]
    return sorted(made, key=lambda task: task.evaluations)
