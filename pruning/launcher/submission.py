"""Records of submissions: written before the scheduler is asked, and again with the name of each job.

If a command dies while it submits, its record stays incomplete. Before the next command submits anything, it cancels
all SLURM jobs of the incomplete submission, which it finds by the submission's name.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict, cast

from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, unknown
from pruning.core.records import CLASS, check_literal, recorded
from pruning.models.model import Resources

if TYPE_CHECKING:
    import psutil


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
    fields: dict[str, Any] = {**record, "resources": Resources(**record["resources"])}
    return QueuedCell(**fields)


def submissions(results: Path) -> Iterator[Submission]:
    """All records of a results folder, the oldest first."""
    for path in sorted((results / "jobs").glob(f"cells-*/{NAME}")):
        yield Submission.load(path)


def latest(results: Path) -> dict[str, Submission]:
    """The most recent submission of each submitted cell, by the cell's key."""
    return {task.key: record for record in submissions(results) for task in record.tasks}


# The order in which cells are submitted, so that they can share losses.

ORDERS = ("sharing", "asked")


def ordered(tasks: Sequence[QueuedCell], order: str) -> list[QueuedCell]:
    """Tasks in the given order (`asked`), or rearranged to share losses (`sharing`).

    Raises InputError if `order` is unknown.

    Cells of one model, objective and set of samples form a group, and share losses. If two cells of a group start
    together, both compute the same losses. So the shortest search of each group comes first, because the longer
    searches begin with the same losses; then comes the second shortest of each group, and so on.
    """
    if order not in ORDERS:
        raise unknown("launcher.order", order, ORDERS)
    if order == "asked":
        return list(tasks)
    groups: dict[str, list[QueuedCell]] = {}
    for task in sorted(tasks, key=lambda task: task.evaluations):
        groups.setdefault(task.group, []).append(task)
    rounds: Iterable[tuple[QueuedCell | None, ...]] = zip_longest(*groups.values())
    return [task for task in chain.from_iterable(rounds) if task is not None]


# `submission.json` and `jobs.json`: the meaning of each key, the only reader and the only writer.
#
# `docs/results_folder.md` prints the sentence beside each key, and a test checks that the two agree.

NAME, JOBS = "submission.json", "jobs.json"


class TaskRecord(TypedDict):
    """One cell of a submission."""

    key: Annotated[str, "The cell's key."]
    config: Annotated[dict[str, Any], "Its configuration, with options and classes by name."]
    choices: Annotated[dict[str, str], "The options of `objective`, `calibration` and `algo`."]
    resources: Annotated[dict[str, Any], "The resources that its job requests: `model.resources`."]
    evaluations: Annotated[int, "The most losses that its search will ask for."]
    group: Annotated[str, "A digest; cells with equal digests share scores."]
    files: NotRequired[
        Annotated[dict[str, str | None], "Digest of each local file that its evaluation reads."]
    ]
    heal_files: NotRequired[
        Annotated[dict[str, str | None], "Digest of the local file that its healing reads."]
    ]


class SubmissionRecord(TypedDict):
    """What is submitted; this file is written before the scheduler is asked to start anything."""

    launcher: Annotated[dict[str, Any], "The launcher's class and settings."]
    submitted: Annotated[str, "When, in UTC."]
    code: Annotated[str, "The folder in `code/` with the copy of the code that the jobs run."]
    where: Annotated[str, "The working directory of the command; relative paths start there."]
    driver: Annotated[str, "The process that submits."]
    tasks: Annotated[list[TaskRecord], "The cells."]


class JobsRecord(TypedDict):
    """What is known about the jobs of a submission; the file is written again after each new job."""

    jobs: Annotated[dict[str, str], "The name of each cell's job in the scheduler, by the cell's key."]
    complete: Annotated[bool, "Whether no further job will be added."]
    devices: Annotated[dict[str, list[str]], "The GPUs of each local process, by the process's name."]


def read_submission(path: Path) -> tuple[SubmissionRecord, JobsRecord]:
    """A submission and its jobs; older forms are converted.

    Raises DamagedError if the file is not a submission, InputError if a configuration in it is not literal.
    """
    data = storage.read_json(path)
    if not isinstance(data, dict) or not SubmissionRecord.__required_keys__ <= data.keys():
        raise DamagedError(f"{path} is damaged (it is not a record of jobs): move it away.")
    check_literal({"tasks": data["tasks"]}, f"{path} is not to be trusted: ")
    tasks = data["tasks"] if isinstance(data["tasks"], list) else []
    for task in tasks:
        paths = task.get("config", {}).get("paths") if isinstance(task, dict) else None
        if paths is not None and not (isinstance(paths, dict) and isinstance(paths.get("results"), str)):
            raise DamagedError(f"{path} is damaged (paths={paths!r} in a task): move it away.")
    jobs_path = path.with_name(JOBS)
    empty: JobsRecord = {"jobs": {}, "complete": False, "devices": {}}
    jobs = storage.read_json(jobs_path) if jobs_path.exists() else {}
    return cast(SubmissionRecord, data | {"launcher": recorded(data["launcher"])}), cast(
        JobsRecord, empty | jobs
    )


def write_submission(folder: Path, record: SubmissionRecord) -> None:
    """Write `submission.json` atomically."""
    storage.write_json(folder / NAME, record)


def write_jobs(folder: Path, record: JobsRecord) -> None:
    """Write `jobs.json` atomically."""
    storage.write_json(folder / JOBS, record)


# Processes of this machine, by a unique name that is never reused.

log = logging.getLogger(__name__)


def process_name(pid: int) -> str:
    """A unique name for a process; the name contains the start time, because the system reuses process numbers."""
    import psutil

    return f"process-{socket.gethostname()}-{pid}-{int(psutil.Process(pid).create_time())}"


def process(name: str) -> Info:
    """The state of a process, by its name; a process on another machine is assumed to run."""
    host, _, born = _parts(name)
    if not is_here(name):
        return Info(True, False, f"on {host}", 0.0)
    alive = _living(name) is not None
    return Info(alive, False, "", time.time() - born if alive else 0.0)


def is_here(name: str) -> bool:
    """Whether a process belongs to this machine, by its name."""
    return _parts(name)[0] == socket.gethostname()


def end(name: str, results: Path) -> None:
    """Stop a process of this machine and all its descendants.

    A process whose command line names no file in the results folder stays: a folder from somebody else can name any.
    """
    import psutil

    if (first := _living(name)) is None:
        return
    places = {str(results), str(results.resolve())}
    with contextlib.suppress(psutil.Error):
        if not any(place in word for word in first.cmdline() for place in places):
            log.warning("process %d is not a job of %s, and is not stopped", first.pid, results)
            return
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
        _end_family([first, *first.children(recursive=True)])


def _end_family(family: Sequence[psutil.Process]) -> None:
    import psutil

    for member in family:
        _signal(member.terminate)
    _, left = psutil.wait_procs(family, timeout=3)
    for member in left:
        _signal(member.kill)


def _parts(name: str) -> tuple[str, int, int]:
    """The host, the number and the start time in a name; a host can contain dashes."""
    host, pid, born = name.removeprefix("process-").rsplit("-", 2)
    return host, int(pid), int(born)


def _living(name: str) -> psutil.Process | None:
    """The process of this machine with this name; None if it has ended.

    psutil refuses to signal it if its number belongs to another process by then.
    """
    import psutil

    _, pid, born = _parts(name)
    if not is_here(name):
        return None
    try:
        found = psutil.Process(pid)
        alive = int(found.create_time()) == born and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return found if alive else None


def _signal(action: Callable[[], None]) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        action()


# Ask SLURM: squeue for jobs that are queued or have ended recently, sacct for older ones, scontrol for limits.

WAITING = {
    "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD",
}  # fmt: skip
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
WHOLE_LISTS = {"SLURM_BITSTR_LEN": "0"}  # task numbers of an array are not cut after 64 characters
SECONDS = 60  # the longest time to wait for an answer from SLURM
MEANINGS = {
    "CANCELLED": "cancelled",
    "TIMEOUT": "it reached its time limit",
    "NODE_FAIL": "its node died",
    "OUT_OF_MEMORY": "it needed more memory than model.resources.memory_gb",
    "PREEMPTED": "it was preempted and not put back into the queue",
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "it reached its deadline",
}


@dataclass(frozen=True)
class Info:
    """The state of a job: `reason` is why it waits or how it ended; `seconds` is how long it has been running."""

    active: bool
    waiting: bool
    reason: str
    seconds: float


def ask(names: Iterable[str], jobs: set[str]) -> dict[str, Info]:
    """The states of those `jobs` that SLURM knows; `names` are the names of their submissions.

    Raises InputError if SLURM does not answer.
    """
    listed = call("squeue", "--noheader", "--array", "--states=all", f"--name={','.join(sorted(names))}",
                  "--format=%i|%T|%r|%M|%l")  # fmt: skip
    infos = dict(_queued(listed))
    if missing := jobs - infos.keys():
        infos |= _accounted(missing)
    return {job: infos[job] for job in jobs if job in infos}


def _queued(text: str) -> Iterator[tuple[str, Info]]:
    for line in text.splitlines():
        job, state, reason, elapsed, _ = line.split("|", 4)
        yield job, _info(state, "" if reason == "None" else reason, _seconds(elapsed))


def _accounted(jobs: Iterable[str]) -> dict[str, Info]:
    """The states of jobs in SLURM's accounting; empty if the cluster has no accounting."""
    numbers = sorted({job.partition("_")[0] for job in jobs})
    words = ("--allocations", "--noheader", "--parsable2", "--format=JobID,State,ExitCode")
    try:
        listed = call("sacct", *words, f"--jobs={','.join(numbers)}")
    except InputError:
        return {}
    infos: dict[str, Info] = {}
    for line in listed.splitlines():
        name, state, code = line.split("|")
        info = _info(state, f"exit code {code.partition(':')[0]}, signal {code.partition(':')[2]}", 0.0)
        infos |= dict.fromkeys(array_tasks(name), info)
    return infos


def array_tasks(name: str) -> list[str]:
    """The jobs of a row of sacct. Tasks of an array that ended before they began share a row: `7_[0-2,6-9%4]`."""
    array, bracket, tasks = name.partition("_[")
    if not bracket:
        return [name]
    ranges = re.findall(r"(\d+)(?:-(\d+))?(?::(\d+))?", tasks.partition("%")[0])
    numbers = (range(int(first), int(last or first) + 1, int(step or 1)) for first, last, step in ranges)
    return [f"{array}_{number}" for numbered in numbers for number in numbered]


def _info(state: str, reason: str, seconds: float) -> Info:
    word = state.split()[0]
    if word in WAITING:
        return Info(True, True, reason, seconds)
    if word in RUNNING:
        return Info(True, False, "", seconds)
    if word == "COMPLETED":
        return Info(False, False, "", seconds)
    return Info(False, False, f"{MEANINGS.get(word, reason or 'it died')} (SLURM: {word})", seconds)


def _seconds(elapsed: str) -> float:
    """`1-02:03:04`, `02:03:04` or `03:04` in seconds; 0 if the text is not a time."""
    if not (match := re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", elapsed)):
        return 0.0
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds


def cancel_named(name: str) -> None:
    """Cancel all jobs of a submission, by its name."""
    call("scancel", "--quiet", f"--name={name}")


def largest_array() -> int:
    """The largest number of tasks in an array."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"), re.MULTILINE)
    return max(1, int(match[1])) if match else 1001


def call(*command: str) -> str:
    """Run a SLURM command; returns its output. Raises InputError if the command fails."""
    environment = os.environ | WHOLE_LISTS
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment
        )
    except FileNotFoundError:
        raise InputError(
            f"{command[0]} is not installed here: use a login node of a SLURM cluster, or launcher=processes."
        ) from None
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{command[0]} did not answer within {SECONDS} s: try again when SLURM answers."
        ) from None
    if done.returncode:
        first = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[0]
        raise InputError(f"{command[0]} failed ({first}): try again when SLURM answers.")
    return done.stdout
