"""The states of jobs: processes of this machine, by names that are never reused, and jobs of SLURM."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from pruning.core.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Info:
    """The state of a job: it waits, runs or has ended; `reason` is why it waits or how it ended."""

    active: bool
    waiting: bool = False
    reason: str = ""


# Processes of this machine

PROCESS = "process-"  # the names of SLURM's jobs begin with a digit


def process_name(pid: int) -> str:
    """A unique name for a process; the name contains the start time, because the system reuses process numbers."""
    return f"{PROCESS}{socket.gethostname()}-{pid}-{int(psutil.Process(pid).create_time())}"


def process_number(job: str) -> str:
    """The number in the name of a process; any other job's name as it is."""
    return str(_parts(job)[1]) if job.startswith(PROCESS) else job


def is_here(name: str) -> bool:
    """Whether a process belongs to this machine, by its name."""
    return _parts(name)[0] == socket.gethostname()


def process(name: str) -> Info:
    """The state of a process, by its name; a process on another machine is assumed to run."""
    if not is_here(name):
        return Info(active=True, reason=f"on {_parts(name)[0]}")
    return Info(active=_living(name) is not None)


def end(name: str, results: Path) -> None:
    """Stop a process of this machine and all its descendants.

    A process whose command line names no file in the results folder stays: a folder from somebody else can name any.
    """
    if (first := _living(name)) is None:
        return
    places = {str(results), str(results.resolve())}
    with suppress(psutil.Error):
        if not any(place in word for word in first.cmdline() for place in places):
            log.warning("process %d is not a job of %s, and is not stopped", first.pid, results)
            return
    end_family(first.pid)


def end_family(number: int) -> None:
    """Stop the process with a number, and all its descendants."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
        first = psutil.Process(number)
        family = [first, *first.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    for member in psutil.wait_procs(family, timeout=3)[1]:
        with suppress(psutil.NoSuchProcess):
            member.kill()


def _parts(name: str) -> tuple[str, int, int]:
    """The host, the number and the start time in a name; a host can contain dashes."""
    host, pid, born = name.removeprefix(PROCESS).rsplit("-", 2)
    return host, int(pid), int(born)


def _living(name: str) -> psutil.Process | None:
    """The process of this machine with this name; None if it has ended.

    psutil refuses to signal it if its number belongs to another process by then.
    """
    _, pid, born = _parts(name)
    if not is_here(name):
        return None
    try:
        found = psutil.Process(pid)
        alive = int(found.create_time()) == born and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return found if alive else None


# Jobs of SLURM: squeue knows those that are queued or have ended recently, sacct older ones

WAITING = {
    "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD",
}  # fmt: skip
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
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


def ask(names: Iterable[str], jobs: set[str]) -> dict[str, Info]:
    """The states of those `jobs` that SLURM knows; `names` are the names of their submissions.

    Raises InputError if SLURM does not answer.
    """
    listed = call("squeue", "--noheader", "--array", "--states=all", f"--name={','.join(sorted(names))}",
                  "--format=%i|%T|%r")  # fmt: skip
    infos = {}
    for line in listed.splitlines():
        job, state, reason = line.split("|")
        infos[job] = _info(state, "" if reason == "None" else reason)
    if missing := jobs - infos.keys():
        numbers = ",".join(sorted({job.partition("_")[0] for job in missing}))
        # Without --array, tasks of an array that ended before they began share a row.
        words = ("--array", "--allocations", "--noheader", "--parsable2", "--format=JobID,State,ExitCode")
        with suppress(InputError):  # the cluster has no accounting
            for line in call("sacct", *words, f"--jobs={numbers}").splitlines():
                job, state, code = line.split("|")
                infos.setdefault(job, _info(state, f"exit code and signal {code}"))
    return {job: infos[job] for job in jobs if job in infos}


def _info(state: str, reason: str) -> Info:
    word = state.split()[0]
    if word in WAITING:
        return Info(active=True, waiting=True, reason=reason)
    if word in RUNNING or word == "COMPLETED":
        return Info(active=word in RUNNING)
    return Info(active=False, reason=f"{MEANINGS.get(word, reason or 'it died')} (SLURM: {word})")


def largest_array() -> int:
    """The largest number of tasks in an array."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"), re.MULTILINE)
    return max(1, int(match[1])) if match else 1001


def call(*command: str) -> str:
    """Run a SLURM command; returns its output. Raises InputError if the command fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
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
