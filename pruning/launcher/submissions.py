"""Records of submissions: written before the scheduler is asked, and again with the name of each job.

If a command dies while it submits, its record stays incomplete. Before the next command submits anything, it cancels
all SLURM jobs of the incomplete submission, which it finds by the submission's name.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from pruning.core.errors import DamagedError
from pruning.core.recorded import CLASS
from pruning.launcher.local_process import process_name
from pruning.launcher.submission_record import (
    NAME,
    TaskRecord,
    read_submission,
    write_jobs,
    write_submission,
)
from pruning.models.resources import Resources, resources

CANCELLED = "cancelled"


@dataclass(frozen=True)
class QueuedCell:
    """A cell that is to run as a job: its configuration, its resources and its number of evaluations."""

    key: str
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    resources: Resources
    evaluations: int
    group: str  # cells with the same group share scores
    # digests of the files that its evaluation and its healing read; none in records of older versions
    files: Mapping[str, str | None] = field(default_factory=dict)
    heal_files: Mapping[str, str | None] = field(default_factory=dict)


@dataclass
class Submission:
    """Tasks that were submitted together; `jobs` holds the name of each task's job once it is known."""

    folder: Path
    launcher: Mapping[str, Any]
    tasks: list[QueuedCell]
    submitted: str
    code: str
    where: str  # the working directory of the command: relative paths start there
    driver: str  # the process that submits them
    jobs: dict[str, str] = field(default_factory=dict)
    complete: bool = False  # True if no further job will be added
    devices: dict[str, list[str]] = field(default_factory=dict)  # the GPUs of each process, by its name

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
        submitted, name = now.isoformat(), f"cells-{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"
        driver = process_name(os.getpid())
        begun = cls(results / "jobs" / name, launcher, list(tasks), submitted, code.name, where, driver)
        write_submission(
            begun.folder,
            {
                "launcher": dict(launcher),
                "submitted": submitted,
                "code": code.name,
                "where": where,
                "driver": driver,
                "tasks": [cast(TaskRecord, asdict(task)) for task in begun.tasks],
            },
        )
        return begun

    def save(self) -> None:
        """Write the names of the jobs, whether the submission is complete, and the GPUs of the processes."""
        write_jobs(self.folder, {"jobs": self.jobs, "complete": self.complete, "devices": self.devices})

    @classmethod
    def load(cls, path: Path) -> Submission:
        """Read a record. Raises DamagedError if the file is not a record."""
        record, jobs = read_submission(path)
        try:
            tasks = [_task(task) for task in record["tasks"]]
            static = {name: value for name, value in record.items() if name != "tasks"}
            return cls(path.parent, tasks=tasks, **cast(dict[str, Any], static), **jobs)
        except (AttributeError, KeyError, TypeError) as error:
            raise DamagedError(f"{path} is damaged (it is not a record of jobs): move it away.") from error

    def task(self, key: str) -> QueuedCell:
        """The task of the cell with this key."""
        return self._by_key[key]

    @cached_property
    def _by_key(self) -> dict[str, QueuedCell]:
        return {task.key: task for task in self.tasks}

    @property
    def cancelled(self) -> Path:
        """A file that exists if the cells of this submission were cancelled."""
        return self.folder / CANCELLED

    @property
    def on_slurm(self) -> bool:
        """True for jobs of SLURM, False for processes of a machine."""
        return bool(self.launcher[CLASS] == "Slurm")

    def log(self, key: str) -> Path | None:
        """The log of the first rank of a cell's job: stderr, or stdout if stderr is empty; None without a job."""
        if key not in self.jobs:
            return None
        job = self.jobs[key]
        number = job.rsplit("-", 2)[1] if job.startswith("process-") else job
        errors, output = (self.folder / f"{number}_0_log.{ending}" for ending in ("err", "out"))
        return errors if errors.exists() and errors.stat().st_size else output


def _task(record: TaskRecord) -> QueuedCell:
    if not all(type(number) in (int, float) for number in record["resources"].values()):
        raise TypeError("resources are numbers")  # they become options of sbatch
    fields: dict[str, Any] = {**record, "resources": resources(record["resources"])}
    return QueuedCell(**fields)


def submissions(results: Path) -> Iterator[Submission]:
    """All records of a results folder, the oldest first."""
    for path in sorted((results / "jobs").glob(f"cells-*/{NAME}")):
        yield Submission.load(path)


def latest(results: Path) -> dict[str, Submission]:
    """The most recent submission of each submitted cell, by the cell's key."""
    return {task.key: record for record in submissions(results) for task in record.tasks}
