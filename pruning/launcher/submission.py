"""Records of submissions: `submission.json` is written before the scheduler is asked, `jobs.json` after each job.

If a command dies while it submits, its record stays incomplete. Before the next command submits anything, it cancels
all SLURM jobs of the incomplete submission, which it finds by the submission's name.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from filelock import FileLock

from pruning.core import storage
from pruning.core.errors import DamagedError
from pruning.core.records import CLASS, check_literal
from pruning.launcher.scheduler import process_name, process_number
from pruning.models.handle import Resources

NAME, JOBS = "submission.json", "jobs.json"
Digests: TypeAlias = Mapping[str, str | None]  # of files; None if a file cannot be read


@dataclass(frozen=True)
class QueuedCell:
    """A cell that is to run as a job. Cells with equal digests `group` share scores."""

    key: str
    config: Mapping[str, Any]  # with options and classes by name
    choices: Mapping[str, str]  # the options of `objective`, `calibration` and `algo`
    resources: Resources
    evaluations: int  # the most losses that its search will ask for
    group: str
    files: Digests  # of each local file that its evaluation reads
    heal_files: Digests  # of the local file that its healing reads


@dataclass
class Submission:
    """Tasks that were submitted together. `STARTED` and `LATER` are what its two files hold."""

    STARTED: ClassVar = ("launcher", "tasks", "submitted", "code", "where", "driver")
    LATER: ClassVar = ("jobs", "complete", "devices")

    folder: Path
    launcher: Mapping[str, Any]  # its class and settings
    tasks: list[QueuedCell]
    submitted: str  # when, in UTC
    code: str  # the folder in `code` with the copy that the jobs run
    where: str  # the working directory of the command; relative paths start there
    driver: str  # the process that submits
    jobs: dict[str, str] = field(default_factory=dict)  # names in the scheduler, by the keys of cells
    complete: bool = False  # whether no further job will be added
    devices: dict[str, list[str]] = field(default_factory=dict)  # GPUs, by the name of each local process

    @property
    def name(self) -> str:
        """The name that all jobs of this submission have in the scheduler."""
        return self.folder.name

    @classmethod
    def begin(
        cls, results: Path, launcher: Mapping[str, Any], tasks: Sequence[QueuedCell], code: Path, where: str
    ) -> Submission:
        """Write the record of tasks that are about to be submitted; returns it."""
        now = datetime.now(UTC)
        folder = results / "jobs" / f"cells-{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"
        driver = process_name(os.getpid())
        begun = cls(folder, launcher, list(tasks), now.isoformat(), code.name, where, driver)
        data = asdict(begun)
        storage.write_json(folder / NAME, {key: data[key] for key in cls.STARTED})
        return begun

    def save(self) -> None:
        """Write `jobs.json`."""
        storage.write_json(self.folder / JOBS, {key: getattr(self, key) for key in self.LATER})

    @classmethod
    def load(cls, path: Path) -> Submission:
        """Read a record.

        Raises DamagedError if the file is not a record, InputError if a configuration in it is not literal.
        """
        data, jobs = storage.read_json(path), path.with_name(JOBS)
        try:
            check_literal({"tasks": data["tasks"]}, f"{path} is not to be trusted: ")
            record = {key: data[key] for key in cls.STARTED}
            record |= storage.read_json(jobs) if jobs.exists() else {}
            str(record["launcher"][CLASS])
            return cls(path.parent, **{**record, "tasks": [_task(task) for task in record["tasks"]]})
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

    @property
    def on_slurm(self) -> bool:
        """True for jobs of SLURM, False for processes of a machine."""
        return bool(self.launcher[CLASS] == "Slurm")

    def log(self, key: str) -> Path | None:
        """The log of the first rank of a cell's job: stderr, or stdout if stderr is empty; None without a job."""
        if key not in self.jobs:
            return None
        errors, output = (
            self.folder / f"{process_number(self.jobs[key])}_0_log.{ending}" for ending in ("err", "out")
        )
        return errors if errors.exists() and errors.stat().st_size else output


def _task(record: Mapping[str, Any]) -> QueuedCell:
    """A task of a record. Raises TypeError or KeyError if it is none."""
    if not all(type(number) in (int, float) for number in record["resources"].values()):
        raise TypeError("resources are numbers")  # they become options of sbatch
    paths = record["config"].get("paths")
    if paths is not None and not isinstance(paths["results"], str):
        raise TypeError(f"paths={paths!r} in a task")
    return QueuedCell(**{**record, "resources": Resources(**record["resources"])})


def submissions(results: Path) -> Iterator[Submission]:
    """All records of a results folder, the oldest first."""
    for path in sorted((results / "jobs").glob(f"cells-*/{NAME}")):
        yield Submission.load(path)


def latest(results: Path) -> dict[str, Submission]:
    """The most recent submission of each submitted cell, by the cell's key."""
    return {task.key: record for record in submissions(results) for task in record.tasks}


def starting_lock(results: Path) -> FileLock:
    """A lock that lets one command at a time see which slots of this machine are free and start cells there."""
    return FileLock(results / "jobs" / ".starting.lock")


def ordered(tasks: Sequence[QueuedCell]) -> list[QueuedCell]:
    """Tasks in the order in which they are submitted, so that they can share losses.

    Cells of one model, objective and set of samples form a group, and share losses. If two cells of a group start
    together, both compute the same losses. So the shortest search of each group comes first, because the longer
    searches begin with the same losses; then comes the second shortest of each group, and so on.
    """
    groups: dict[str, list[QueuedCell]] = {}
    for task in sorted(tasks, key=lambda task: task.evaluations):
        groups.setdefault(task.group, []).append(task)
    rounds: Iterable[tuple[QueuedCell | None, ...]] = zip_longest(*groups.values())
    return [task for task in chain.from_iterable(rounds) if task is not None]
