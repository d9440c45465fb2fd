"""Run cells as processes on this machine, a limited number at once, each with its own GPUs."""

from __future__ import annotations

import logging
import secrets
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pruning.core.errors import InputError
from pruning.engine.collectives import visible
from pruning.launcher.cell_state import CellState, StateName, recorded_state
from pruning.launcher.job import Job, job_environment, snapshot

if TYPE_CHECKING:
    from pruning.launcher.submission import QueuedCell
    from pruning.models.handle import Resources

log = logging.getLogger(__name__)

LONGEST = 365 * 24 * 60  # the time limit in minutes, which no cell reaches
PAUSE = 0.2  # seconds between two checks of the running processes


@dataclass(frozen=True)
class LocalPool:
    """Runs at most `parallel` cells at once, each in its own process; the processes end with the command.

    If `parallel` is null, as many cells run at once as the GPUs allow; on a machine without GPUs, two.
    """

    parallel: int | None = None

    def check(self, asked: Mapping[str, Resources]) -> None:
        """Raise InputError if a setting is invalid or a model's resources in `asked` exceed this machine's."""
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

    def run(self, results: Path, tasks: Sequence[QueuedCell], where: str) -> dict[str, CellState]:
        """Run cells with the working directory `where`; returns their final states. An interrupt stops the cells."""
        begun = datetime.now(UTC)
        folder = results / "jobs" / f"cells-{begun:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"
        code, waiting, ended = snapshot(results), list(tasks), dict[str, CellState]()
        running: dict[str, tuple[Any, list[str]]] = {}  # the job and the GPUs of each cell
        try:
            while waiting or running:
                used = [gpus for _, gpus in running.values()]
                if waiting and (gpus := self.free_gpus(waiting[0].resources, used)) is not None:
                    task = waiting.pop(0)
                    running[task.key] = self._start(folder, code, task, where, gpus), gpus
                    continue
                for key in [key for key, (job, _) in running.items() if job.done()]:
                    job, _ = running.pop(key)
                    state, reason = recorded_state(results / key, begun.isoformat())
                    state, reason = state or StateName.LOST, reason or "its process has died"
                    ended[key] = CellState(key, state, reason, log=str(job.paths.stderr))
                    log.info("%s: %s; %d of %d", key, ended[key].state, len(ended), len(tasks))
                time.sleep(PAUSE)
        finally:
            for job, _ in running.values():
                end_family(int(job.job_id))
        return ended

    def free_gpus(self, wanted: Resources, used: Iterable[Sequence[str]]) -> list[str] | None:
        """GPUs for one more cell ([] on a machine without GPUs); None if the cell must wait for a slot or for GPUs.

        `used` lists the GPUs of each running cell; `wanted` is what the next cell requests.
        """
        taken, installed = list(used), visible()
        free = [gpu for gpu in installed if all(gpu not in gpus for gpus in taken)]
        most = self.parallel or (max(1, len(installed) // max(1, wanted.gpus)) if installed else 2)
        needed = wanted.gpus if installed else 0
        return free[:needed] if len(taken) < most and len(free) >= needed else None

    def _start(self, folder: Path, code: Path, task: QueuedCell, where: str, gpus: Sequence[str]) -> Any:
        import submitit

        executor = submitit.LocalExecutor(folder)
        # submitit sets CUDA_VISIBLE_DEVICES to numbers. This line runs later and restores the names.
        chosen = f"export CUDA_VISIBLE_DEVICES={shlex.quote(','.join(gpus))}"
        executor.update_parameters(
            tasks_per_node=task.resources.ranks, timeout_min=LONGEST, setup=[chosen, *job_environment(code)]
        )
        return executor.submit(Job(task.key, task.config, where))


def end_family(number: int) -> None:
    """Stop the process with the id `number`, and all its descendants."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):  # the process has ended meanwhile
        first = psutil.Process(number)
        family = [first, *first.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    for member in psutil.wait_procs(family, timeout=3)[1]:
        with suppress(psutil.NoSuchProcess):
            member.kill()
