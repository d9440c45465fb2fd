"""Run cells as processes of this machine.

submitit's local executor starts a job at once. So `LocalPool` bounds how many cells run at the same time, and gives
them separate GPUs. The processes outlive the command, which is needed only to start the next one in a free slot.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pruning.core.errors import InputError
from pruning.engine.collectives import visible
from pruning.launcher.job import Job, check_script, check_texts, job_environment, launcher_record, snapshot
from pruning.launcher.scheduler import is_here, process, process_name
from pruning.launcher.submission import QueuedCell, Submission, starting_lock, submissions

if TYPE_CHECKING:
    from pruning.models.handle import Resources

OUTLIVE = "trap '' INT HUP"  # Ctrl-C or a closed terminal ends the command but not its processes
EXIT_SECONDS = 30
LONGEST = 365 * 24 * 60  # minutes; in effect no time limit


@dataclass
class LocalPool:
    """Runs `parallel` cells at once, each in a process of its own.

    If `parallel` is null, runs as many cells as the GPUs allow, or two cells if the machine has no GPUs.
    """

    parallel: int | None = None
    setup: list[str] = field(default_factory=list)
    _record: Submission | None = field(default=None, init=False)
    _waiting: list[QueuedCell] = field(default_factory=list, init=False)
    _started: dict[str, Any] = field(default_factory=dict, init=False)  # handles of the processes, by name

    wait: ClassVar[bool] = True  # the command starts each next cell
    waits: ClassVar[bool] = True

    def check(self, asked: Mapping[str, Resources]) -> None:
        """Raise InputError if this machine cannot meet the settings or has too few GPUs."""
        check_script(self)
        if self.parallel is not None and self.parallel < 1:
            raise InputError(f"launcher.parallel={self.parallel} runs nothing: choose 1 or more.")
        gpus = visible()
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
        check_script(self)  # again: a retry takes the settings from a record
        check_texts("paths.results", str(results))
        self._record = Submission.begin(results, launcher_record(self), tasks, snapshot(results), where)
        self._waiting = list(tasks)

    def step(self) -> bool:
        """Start waiting cells while a slot is free; returns whether any still wait."""
        started, waiting, record = self._started, self._waiting, self._record
        for name in [name for name in started if not process(name).active]:
            started.pop(name).poll()
        if record is None or record.complete:
            return False
        results = record.folder.parents[1]
        with starting_lock(results):
            if record.cancelled.exists():
                waiting.clear()
            used = _used(results) if waiting else {}
            while waiting and (gpus := self._free_gpus(waiting[0].resources, used)) is not None:
                used[self._start(record, waiting.pop(0), gpus)] = gpus
            if not waiting:
                record.complete = True
                record.save()
        return bool(waiting)

    def finish(self) -> None:
        """Wait for the last processes to exit; their results are already written."""
        for running in self._started.values():
            with suppress(subprocess.TimeoutExpired):
                running.wait(EXIT_SECONDS)

    def _free_gpus(self, wanted: Resources, used: Mapping[str, Sequence[str]]) -> list[str] | None:
        """GPUs for one more cell ([] if the machine has none), or None if no slot is free or too few GPUs are.

        `used` holds the GPUs of each running process, by its name.
        """
        installed = visible()
        free = [gpu for gpu in installed if all(gpu not in gpus for gpus in used.values())]
        most = self.parallel or (max(1, len(installed) // max(1, wanted.gpus)) if installed else 2)
        needed = wanted.gpus if installed else 0
        return free[:needed] if len(used) < most and len(free) >= needed else None

    def _start(self, record: Submission, task: QueuedCell, gpus: Sequence[str]) -> str:
        """Start a cell on GPUs; returns the name of its process."""
        import submitit

        executor = submitit.LocalExecutor(record.folder)
        # submitit sets CUDA_VISIBLE_DEVICES to numbers; this later line of the job's shell restores the GPU names.
        chosen = f"export CUDA_VISIBLE_DEVICES={shlex.quote(','.join(gpus))}"
        code = record.folder.parents[1] / "code" / record.code
        executor.update_parameters(
            tasks_per_node=task.resources.ranks,
            timeout_min=LONGEST,
            setup=[OUTLIVE, chosen, *job_environment(code), *self.setup],
        )
        job = executor.submit(Job(task.key, task.config, task.choices, record.where))
        name = process_name(int(job.job_id))
        record.jobs[task.key], record.devices[name] = name, list(gpus)
        record.save()
        self._started[name] = job._process
        return name


def _used(results: Path) -> dict[str, list[str]]:
    """The GPUs of each running process of this machine, by its name, whichever command started it.

    Processes of other machines use other GPUs, and nothing shows here when they end.
    """
    devices = [item for record in submissions(results) for item in record.devices.items()]
    return {name: gpus for name, gpus in devices if is_here(name) and process(name).active}
