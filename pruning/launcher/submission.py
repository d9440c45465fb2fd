"""Records of submissions: `submission.json` is written before SLURM is asked, `jobs.json` afterwards.

If a command dies while it submits, its record stays incomplete. Before the next command submits anything, it cancels
all jobs of the incomplete submission. It finds these jobs by the submission's name.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from filelock import FileLock

from pruning.core import storage
from pruning.core.errors import DamagedError
from pruning.core.storage import digest
from pruning.launcher import scheduler
from pruning.models.handle import Resources

if TYPE_CHECKING:
    from pruning.runs.cell import Cell, Prepared

log = logging.getLogger(__name__)

NAME, JOBS = "submission.json", "jobs.json"


@dataclass(frozen=True)
class QueuedCell:
    """A cell that is to run as a job. Cells with equal `group`, a digest, share losses."""

    key: str
    config: Mapping[str, Any]  # in the recorded form: options and classes are names
    choices: Mapping[str, str]  # the options of `objective`, `calibration` and `algo`
    resources: Resources
    evaluations: int  # an upper bound on the losses that its search asks for
    group: str


@dataclass
class Submission:
    """Tasks that were submitted together. `submission.json` has the attributes `STARTED`, `jobs.json` has `LATER`."""

    STARTED: ClassVar = ("tasks", "submitted", "code", "where")
    LATER: ClassVar = ("jobs", "complete")

    folder: Path
    tasks: list[QueuedCell]
    submitted: str  # the time of submission in UTC
    code: str  # the folder in `code` with the copy that the jobs run
    where: str  # the working directory of the command; relative paths start there
    jobs: dict[str, str] = field(default_factory=dict)  # names in the scheduler, by the keys of cells
    complete: bool = False  # whether the scheduler was asked; also true if it refused

    @property
    def name(self) -> str:
        """The name that all jobs of this submission have in the scheduler."""
        return self.folder.name

    @classmethod
    def begin(cls, results: Path, tasks: Sequence[QueuedCell], code: Path, where: str) -> Submission:
        """Write and return the record of tasks that are about to be submitted."""
        now = datetime.now(UTC)
        folder = results / "jobs" / f"cells-{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"
        begun = cls(folder, list(tasks), now.isoformat(), code.name, where)
        data = asdict(begun)
        storage.write_json(folder / NAME, {key: data[key] for key in cls.STARTED})
        return begun

    def save(self) -> None:
        """Write `jobs.json`."""
        storage.write_json(self.folder / JOBS, {key: getattr(self, key) for key in self.LATER})

    @classmethod
    def load(cls, path: Path) -> Submission:
        """Read a record. Raises DamagedError if the file does not hold one."""
        data, jobs = storage.read_json(path), path.with_name(JOBS)
        try:
            record = {key: data[key] for key in cls.STARTED}
            record |= storage.read_json(jobs) if jobs.exists() else {}
            tasks = [QueuedCell(**{**t, "resources": Resources(**t["resources"])}) for t in record["tasks"]]
            return cls(path.parent, **{**record, "tasks": tasks})
        except (AttributeError, KeyError, TypeError) as error:
            raise DamagedError(f"{path} is damaged (no record of jobs: {error}): move it away.") from error

    def task(self, key: str) -> QueuedCell:
        """The task of the cell with this key."""
        return self._by_key[key]

    @cached_property
    def _by_key(self) -> dict[str, QueuedCell]:
        return {task.key: task for task in self.tasks}

    @property
    def cancelled(self) -> Path:
        """A file that exists if the cells of this submission were cancelled."""
        return self.folder / "cancelled"

    def cancel(self) -> None:
        """Cancel all jobs of this submission. Raises InputError if SLURM does not answer."""
        self.cancelled.touch()
        scheduler.call("scancel", "--quiet", f"--name={self.name}")

    def log(self, key: str) -> Path | None:
        """The log of the first rank of a cell's job: stderr or, if that is empty, stdout. None if it has no job."""
        if key not in self.jobs:
            return None
        errors, output = (self.folder / f"{self.jobs[key]}_0_log.{ending}" for ending in ("err", "out"))
        return errors if errors.exists() and errors.stat().st_size else output


def submissions(results: Path) -> Iterator[Submission]:
    """Yield all records of a results folder, the oldest first."""
    for path in sorted((results / "jobs").glob(f"cells-*/{NAME}")):
        yield Submission.load(path)


def latest(results: Path) -> dict[str, Submission]:
    """The most recent submission of each submitted cell, by the cell's key."""
    return {task.key: record for record in submissions(results) for task in record.tasks}


def lock_of(results: Path) -> Path:
    """The file that is locked while a command submits."""
    return results / "jobs" / ".lock"


@contextmanager
def submission_lock(results: Path) -> Iterator[None]:
    """Keep other commands from submitting. At first, cancels the jobs of a command that died while it submitted."""
    lock_of(results).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_of(results)):
        for record in submissions(results):
            if not record.complete:
                log.warning("a command died while it submitted %s: its jobs are cancelled", record.name)
                record.cancel()
                record.complete = True
                record.save()
        yield


# Make the tasks of a command, and order them.


def tasks(prepared: Sequence[Prepared]) -> list[QueuedCell]:
    """Prepared cells as tasks, in the order in which they are submitted."""
    made = []
    for ready in prepared:
        cell, identity = ready.cell, ready.cell.identity()
        group = digest({name: identity[name] for name in ("model", "objective", "calibration", "seed")})
        made.append(
            QueuedCell(cell.key, *specification(cell), cell.model.resources, ready.evaluations, group)
        )
    return ordered(made)


def specification(cell: Cell) -> tuple[dict[str, Any], dict[str, str]]:
    """The two things that a job needs of a cell: its configuration, and the names of the chosen options."""
    return dict(cell.config), dataclasses.asdict(cell.choices)


def ordered(tasks: Sequence[QueuedCell]) -> list[QueuedCell]:
    """Tasks in the order in which they are submitted, chosen so that they can share losses.

    Cells with the same model, objective and samples form a group, and share losses. If two cells of a group start
    together, both compute the same losses. Longer searches begin with the losses of shorter ones, so the shortest
    search of each group comes first, then the second shortest of each group, and so on.
    """
    groups: dict[str, list[QueuedCell]] = {}
    for task in sorted(tasks, key=lambda task: task.evaluations):
        groups.setdefault(task.group, []).append(task)
    rounds: Iterable[tuple[QueuedCell | None, ...]] = zip_longest(*groups.values())
    return [task for task in chain.from_iterable(rounds) if task is not None]
