"""Run cells as jobs of a SLURM cluster through submitit, with a job array for all cells that request equal resources.

The arrays of a command get equal shares of the limit `parallel`, but each array can run at least one cell at a time.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core.errors import InputError, first_line
from pruning.core.records import texts
from pruning.launcher.job import Job, job_environment, snapshot
from pruning.launcher.scheduler import largest_array
from pruning.launcher.submission import QueuedCell, Submission

if TYPE_CHECKING:
    from pruning.models.handle import Resources

LEAST = {"parallel": 1, "warning_seconds": 1, "requeues": 0}


@dataclass(frozen=True)
class Slurm:
    """Submits cells as jobs; `conf/launcher/slurm.yaml` explains each setting."""

    wait: bool = True
    parallel: int = 256
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: list[str] = field(default_factory=list)
    python: str | None = None
    warning_seconds: int = 120
    requeues: int = 20
    options: dict[str, Any] = field(default_factory=dict)
    srun: list[str] = field(default_factory=lambda: ["--kill-on-bad-exit=1"])

    def check(self, asked: Mapping[str, Resources]) -> None:
        """Raise InputError if a setting is invalid or SLURM is missing; `asked` maps models to their resources."""
        for where, text in texts(
            asdict(self), "launcher"
        ):  # a line break would add a line to the job's script
            if any(unicodedata.category(character) == "Cc" for character in text):
                raise InputError(
                    f"{where}={text!r} holds a control character: remove it. In launcher.setup, give each line as an "
                    "item of its own."
                )
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise InputError(f"launcher.{name}={getattr(self, name)} is too few: choose {least} or more.")
        for model, resources in asked.items():
            resources.check(model)
            if resources.minutes * 60 <= self.warning_seconds:
                raise InputError(
                    f"model.resources.minutes={resources.minutes} of {model} is no longer than "
                    f"launcher.warning_seconds={self.warning_seconds}: choose more minutes or fewer seconds."
                )
        largest_array()

    def submit(self, results: Path, tasks: Sequence[QueuedCell], where: str) -> None:
        """Submit tasks. Tasks with equal resources form one array, or several if SLURM limits arrays to fewer tasks.

        `where` is the working directory of the command, to which paths are relative. Raises InputError if
        sbatch refuses the tasks.
        """
        kinds: dict[Resources, list[QueuedCell]] = {}
        for task in tasks:
            kinds.setdefault(task.resources, []).append(task)
        most, code = largest_array(), snapshot(results)
        parts = [kind[at : at + most] for kind in kinds.values() for at in range(0, len(kind), most)]
        for part in parts:
            share = min(len(part), max(1, self.parallel // len(parts)))
            self._array(Submission.begin(results, part, code, where), part, share, code)

    def _array(self, record: Submission, part: Sequence[QueuedCell], share: int, code: Path) -> None:
        import submitit

        asked = part[0].resources
        executor = submitit.SlurmExecutor(record.folder, max_num_timeout=self.requeues, python=self.python)
        executor.update_parameters(
            job_name=record.name,
            array_parallelism=share,
            signal_delay_s=self.warning_seconds,
            setup=[*job_environment(code), *self.setup],
            srun_args=self.srun,
            additional_parameters={"requeue": True, **self.options},
            nodes=asked.nodes,
            ntasks_per_node=asked.ranks,
            cpus_per_task=asked.cpus_per_rank,
            mem=f"{round(asked.memory_gb * 1024)}MB",
            time=asked.minutes,
            **({"gpus_per_node": asked.gpus} if asked.gpus else {}),
            **{name: getattr(self, name) for name in ("partition", "account", "qos", "constraint")},
        )
        record.complete = True  # also if sbatch refuses the tasks
        try:
            with executor.batch():
                jobs = [executor.submit(Job(t.key, t.config, record.where)) for t in part]
        except Exception as error:
            record.save()
            lines = [line for line in str(error).splitlines() if "error:" in line]
            reason = lines[0].partition("error:")[2].strip().rstrip(".") if lines else first_line(error)
            raise InputError(
                f"sbatch refused {len(part)} cells ({reason}): none of them is queued."
            ) from None
        record.jobs = {task.key: job.job_id for task, job in zip(part, jobs, strict=True)}
        record.save()
