"""Ask SLURM: squeue for jobs that are queued or have ended recently, sacct for older ones, scontrol for limits."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pruning.core.errors import InputError

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
