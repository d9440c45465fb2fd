"""Run cells as processes on this machine: a bounded number at once, each with separate GPUs.

The processes outlive the command, which is needed only to start the next process when a slot is free.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pruning.core.errors import InputError, unknown
from pruning.distributed.rendezvous import visible
from pruning.launcher.code_snapshot import snapshot
from pruning.launcher.job import Job
from pruning.launcher.local_process import process, process_name
from pruning.launcher.script_text import check_folder, check_text
from pruning.launcher.slurm import job_environment, launcher_record
from pruning.launcher.submission_order import ORDERS
from pruning.launcher.submissions import QueuedCell, Submission, submissions

if TYPE_CHECKING:
    from pathlib import Path

    from pruning.models.resources import Resources

OUTLIVE = "trap '' INT HUP"  # Ctrl-C or a closed terminal ends the command but not its processes
EXIT_SECONDS = 30
LONGEST = 365 * 24 * 60  # minutes; in effect no time limit


@dataclass
class _Pool:
    """The waiting cells, the running processes, and the GPUs of each process."""

    record: Submission | None = None
    code: Path | None = None
    waiting: list[QueuedCell] = field(default_factory=list)
    gpus: dict[str, list[str]] = field(default_factory=dict)  # the GPUs of each running process, by its name
    started: dict[str, Any] = field(default_factory=dict)  # handles of this command's processes, by name


@dataclass(frozen=True)
class LocalPool:
    """Runs `parallel` cells at once.

    If `parallel` is null, runs as many cells as the GPUs allow, or two cells if the machine has no GPUs.
    """

    wait: bool = True
    parallel: int | None = None
    order: str = "sharing"
    setup: list[str] = field(default_factory=list)
    _pool: _Pool = field(default_factory=_Pool, init=False, repr=False, compare=False)

    @property
    def waits(self) -> bool:
        """True: the command has to keep running to start the next cell."""
        return True

    def check(self, asked: Mapping[str, Resources]) -> None:
        """Raise InputError if this machine cannot meet the settings or has too few GPUs."""
        if self.order not in ORDERS:
            raise unknown("launcher.order", self.order, ORDERS)
        check_text(self)
        if not self.wait:
            raise InputError(
                "launcher.wait=false needs launcher=slurm: with launcher=processes, a command starts each next cell."
            )
        if self.parallel is not None and self.parallel < 1:
            raise InputError(f"launcher.parallel={self.parallel} runs nothing: choose 1 or more.")
        gpus = visible(os.environ)
        for model, resources in asked.items():
            resources.check(model)
            if resources.nodes > 1:
                raise InputError(f"model.resources.nodes={resources.nodes} of {model} needs launcher=slurm.")
            if gpus and resources.gpus > len(gpus):
                raise InputError(
                    f"{model} asks for {resources.gpus} GPUs (model.resources: ranks x gpus_per_rank), and "
                    f"{len(gpus)} are visible: ask for fewer."
                )

    def submit(self, results: Path, tasks: Sequence[QueuedCell], where: str) -> None:
        """Record tasks and put them into the queue; `step` starts them.

        Raises InputError if a line break in a setting or in the path of the results folder would add a line to the
        script, or if the copy of the code is not what its name says.
        """
        check_text(self)  # again: a retry takes the settings from a record
        check_folder(results)
        pool = self._pool
        pool.code = snapshot(results)
        pool.record = Submission.begin(results, self._settings(), tasks, pool.code, where)
        pool.waiting = list(tasks)
        for record in submissions(results):  # running processes of earlier commands keep their slots
            for job, gpus in record.devices.items():
                if process(job).active:
                    pool.gpus[job] = gpus

    def step(self) -> bool:
        """Start waiting cells while a slot is free; returns whether any still wait."""
        pool = self._pool
        for job in [job for job in pool.gpus if not process(job).active]:
            if job in pool.started:
                pool.started.pop(job).poll()
            del pool.gpus[job]
        if pool.record is not None and pool.record.cancelled.exists():
            pool.waiting.clear()
        while pool.waiting and (chosen := self._free_gpus(pool.waiting[0].resources)) is not None:
            self._start(pool.waiting.pop(0), chosen)
        if pool.record is not None and not pool.waiting and not pool.record.complete:
            pool.record.complete = True
            pool.record.save()
        return bool(pool.waiting)

    def finish(self) -> None:
        """Wait for the last processes to exit; their results are already written."""
        for running in self._pool.started.values():
            with suppress(subprocess.TimeoutExpired):
                running.wait(EXIT_SECONDS)

    def _free_gpus(self, wanted: Resources) -> list[str] | None:
        """GPUs for one more cell ([] if the machine has none), or None if no slot is free or too few GPUs are."""
        installed, used = visible(os.environ), self._pool.gpus
        free = [gpu for gpu in installed if all(gpu not in gpus for gpus in used.values())]
        most = self.parallel or (max(1, len(installed) // max(1, wanted.gpus)) if installed else 2)
        needed = wanted.gpus if installed else 0
        return free[:needed] if len(used) < most and len(free) >= needed else None

    def _start(self, task: QueuedCell, gpus: Sequence[str]) -> None:
        import submitit

        record, code = self._pool.record, self._pool.code
        assert record is not None
        assert code is not None
        executor = submitit.LocalExecutor(record.folder)
        # submitit sets CUDA_VISIBLE_DEVICES to numbers; this later line of the job's shell restores the GPU names.
        chosen = f"export CUDA_VISIBLE_DEVICES={shlex.quote(','.join(gpus))}"
        executor.update_parameters(
            tasks_per_node=task.resources.ranks,
            timeout_min=LONGEST,
            setup=[OUTLIVE, chosen, *job_environment(code), *self.setup],
        )
        job = executor.submit(Job(task.key, task.config, task.choices, record.where))
        name = process_name(int(job.job_id))
        record.jobs[task.key], record.devices[name] = name, list(gpus)
        record.save()
        self._pool.gpus[name], self._pool.started[name] = list(gpus), job._process

    def _settings(self) -> dict[str, Any]:
        data = launcher_record(self)
        del data["_pool"]
        return data
