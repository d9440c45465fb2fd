"""Processes on this machine, a bounded number at once, each with GPUs of its own.

They outlive the command, which only starts the next one when a place is free.
"""

from __future__ import annotations

import os
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
from pruning.launcher.slurm import job_environment, launcher_record
from pruning.launcher.submission_order import ORDERS
from pruning.launcher.submissions import QueuedCell, Submission, submissions

if TYPE_CHECKING:
    from pathlib import Path

    from pruning.models.resources import Resources

OUTLIVE = "trap '' INT HUP"  # Ctrl-C, or closing the terminal, ends the command and not its processes
EXIT_SECONDS = 30
LONGEST = 365 * 24 * 60  # minutes: nobody else waits for this machine


@dataclass
class _Places:
    """What waits for a place, what runs, and which GPUs each has."""

    record: Submission | None = None
    code: Path | None = None
    waiting: list[QueuedCell] = field(default_factory=list)
    held: dict[str, list[str]] = field(default_factory=dict)
    started: dict[str, Any] = field(default_factory=dict)  # what collects their exit status


@dataclass(frozen=True)
class LocalPool:
    """`parallel` cells at once (null: one for each share of the GPUs or, without any, two)."""

    wait: bool = True
    parallel: int | None = None
    order: str = "sharing"
    setup: list[str] = field(default_factory=list)
    _places: _Places = field(default_factory=_Places, init=False, repr=False, compare=False)

    @property
    def waits(self) -> bool:
        """Whether somebody has to wait for its cells: to start the next one."""
        return True

    def check(self, asked: Mapping[str, Resources]) -> None:
        """Raise InputError for settings, or GPUs, that this machine cannot meet."""
        if self.order not in ORDERS:
            raise unknown("launcher.order", self.order, ORDERS)
        if not self.wait:
            raise InputError(
                "launcher.wait=false needs launcher=slurm: here, nobody else starts the next cell."
            )
        if self.parallel is not None and self.parallel < 1:
            raise InputError(f"launcher.parallel={self.parallel} runs nothing: choose 1 or more.")
        there = visible(os.environ)
        for model, one in asked.items():
            one.check(model)
            if one.nodes > 1:
                raise InputError(f"model.resources.nodes={one.nodes} of {model} needs launcher=slurm.")
            if there and one.gpus > len(there):
                raise InputError(
                    f"{model} asks for {one.gpus} GPUs (model.resources: ranks x gpus_per_rank), and "
                    f"{len(there)} are visible: ask for fewer."
                )

    def submit(self, results: Path, tasks: Sequence[QueuedCell], where: str) -> None:
        """Take tasks on; `step` starts them."""
        self._places.code = snapshot(results)
        self._places.record = Submission.begin(results, self._described(), tasks, self._places.code, where)
        self._places.waiting = list(tasks)
        for record in submissions(results):  # what an earlier command left running has its places
            for job, gpus in record.devices.items():
                if process(job).active:
                    self._places.held[job] = gpus

    def step(self) -> bool:
        """Start what there is a place for; whether anything still waits for one."""
        places = self._places
        for job in [job for job in places.held if not process(job).active]:
            if job in places.started:
                places.started.pop(job).poll()
            del places.held[job]
        if places.record is not None and places.record.cancelled.exists():
            places.waiting.clear()
        while places.waiting and (chosen := self._place(places.waiting[0].resources)) is not None:
            self._start(places.waiting.pop(0), chosen)
        if places.record is not None and not places.waiting and not places.record.complete:
            places.record.complete = True
            places.record.save()
        return bool(places.waiting)

    def finish(self) -> None:
        """Let the last ones exit: what they leave is there."""
        for one in self._places.started.values():
            with suppress(subprocess.TimeoutExpired):
                one.wait(EXIT_SECONDS)

    def _place(self, wanted: Resources) -> list[str] | None:
        """The GPUs for one more cell (none where the machine has none), or None while there is no place."""
        there, held = visible(os.environ), self._places.held
        free = [gpu for gpu in there if all(gpu not in gpus for gpus in held.values())]
        most = self.parallel or (max(1, len(there) // max(1, wanted.gpus)) if there else 2)
        needed = wanted.gpus if there else 0
        return free[:needed] if len(held) < most and len(free) >= needed else None

    def _start(self, task: QueuedCell, gpus: Sequence[str]) -> None:
        import submitit

        record, code = self._places.record, self._places.code
        assert record is not None
        assert code is not None
        executor = submitit.LocalExecutor(record.folder)
        # submitit writes numbers into CUDA_VISIBLE_DEVICES; the shell's line afterwards keeps the names given to us.
        chosen = f"export CUDA_VISIBLE_DEVICES={','.join(gpus)}"
        executor.update_parameters(
            tasks_per_node=task.resources.ranks,
            timeout_min=LONGEST,
            setup=[OUTLIVE, chosen, *job_environment(code), *self.setup],
        )
        job = executor.submit(Job(task.key, task.config, task.choices, record.where))
        name = process_name(int(job.job_id))
        record.jobs[task.key], record.devices[name] = name, list(gpus)
        record.save()
        self._places.held[name], self._places.started[name] = list(gpus), job._process

    def _described(self) -> dict[str, Any]:
        data = launcher_record(self)
        del data["_places"]
        return data
