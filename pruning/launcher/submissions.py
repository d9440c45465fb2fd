"""What was submitted: one file a submission, written before the scheduler is asked and again with each job's name.

A record that knows no jobs was left by a command that died in between. Its jobs, should there be any, are found by
the submission's name and cancelled before anything else is submitted.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pruning.core import atomic_files
from pruning.core.errors import DamagedError
from pruning.core.recorded import CLASS, recorded
from pruning.launcher.local_process import process_name
from pruning.models.resources import Resources, resources

NAME, JOBS, CANCELLED = "submission.json", "jobs.json", "cancelled"


@dataclass(frozen=True)
class QueuedCell:
    """One cell that is to run as a job: what the job is told, what it asks for, how much it has to do."""

    key: str
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    resources: Resources
    evaluations: int
    group: str  # cells of one group share scores


@dataclass
class Submission:
    """Tasks that were submitted at once, with the name of each one's job as soon as it has one."""

    folder: Path
    launcher: Mapping[str, Any]
    tasks: list[QueuedCell]
    submitted: str
    code: str
    where: str  # the folder in which the command was given: relative paths start there
    driver: str  # the process that submits them
    jobs: dict[str, str] = field(default_factory=dict)
    complete: bool = False  # whether no more jobs will be named
    devices: dict[str, list[str]] = field(default_factory=dict)  # of a process, its GPUs

    @property
    def name(self) -> str:
        """By which the scheduler knows its jobs."""
        return self.folder.name

    @classmethod
    def begin(
        cls, results: Path, launcher: Mapping[str, Any], tasks: Sequence[QueuedCell], code: Path, where: str
    ) -> Submission:
        """Record that tasks are about to be submitted."""
        now = datetime.now(UTC)
        submitted, name = now.isoformat(), f"cells-{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"
        driver = process_name(os.getpid())
        found = cls(results / "jobs" / name, launcher, list(tasks), submitted, code.name, where, driver)
        static = {name: getattr(found, name) for name in ("launcher", "submitted", "code", "where", "driver")}
        atomic_files.write_json(
            found.folder / NAME, static | {"tasks": [asdict(task) for task in found.tasks]}
        )
        return found

    def save(self) -> None:
        """Write what is known of its jobs."""
        atomic_files.write_json(
            self.folder / JOBS, {"jobs": self.jobs, "complete": self.complete, "devices": self.devices}
        )

    @classmethod
    def load(cls, path: Path) -> Submission:
        """Read a record; raises DamagedError where it is none."""
        data = atomic_files.read_json(path)
        data["launcher"] = recorded(data["launcher"])
        jobs = path.with_name(JOBS)
        data |= atomic_files.read_json(jobs) if jobs.exists() else {}
        try:
            tasks = [
                QueuedCell(**{**task, "resources": resources(task["resources"])})
                for task in data.pop("tasks")
            ]
            return cls(path.parent, tasks=tasks, **data)
        except (AttributeError, KeyError, TypeError) as error:
            raise DamagedError(f"{path} is damaged (it is no record of jobs): move it away.") from error

    def task(self, key: str) -> QueuedCell:
        """The task of a cell."""
        return self._by_key[key]

    @cached_property
    def _by_key(self) -> dict[str, QueuedCell]:
        return {task.key: task for task in self.tasks}

    @property
    def cancelled(self) -> Path:
        """A file that says that its cells were cancelled."""
        return self.folder / CANCELLED

    @property
    def on_slurm(self) -> bool:
        """Whether SLURM knows its jobs; else they are processes of a machine."""
        return bool(self.launcher[CLASS] == "Slurm")

    def log(self, key: str) -> Path | None:
        """Where the first rank of a cell's job writes."""
        if key not in self.jobs:
            return None
        job = self.jobs[key]
        number = job.rsplit("-", 2)[1] if job.startswith("process-") else job
        errors, output = (self.folder / f"{number}_0_log.{ending}" for ending in ("err", "out"))
        return errors if errors.exists() and errors.stat().st_size else output


def submissions(results: Path) -> Iterator[Submission]:
    """All records of a results folder, the oldest first."""
    for path in sorted((results / "jobs").glob(f"*/{NAME}")):
        yield Submission.load(path)


def latest(results: Path) -> dict[str, Submission]:
    """For each cell that was ever submitted, its last submission."""
    return {task.key: record for record in submissions(results) for task in record.tasks}
