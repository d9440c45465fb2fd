"""Ask SLURM for the states of jobs: squeue knows queued, running and recently ended jobs; sacct knows older jobs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from pruning.core.errors import InputError


@dataclass(frozen=True)
class Info:
    """The state of a job: it waits, runs or has ended. `reason` says why it waits or how it failed."""

    active: bool
    waiting: bool = False
    reason: str = ""


WAITING = {
    "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD",
}  # fmt: skip
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
SECONDS = 60  # how long to wait for an answer from SLURM
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
    """The states of the `jobs` that SLURM knows; `names` are the names of the jobs' submissions."""
    listed = call("squeue", "--noheader", "--array", "--states=all", f"--name={','.join(sorted(names))}",
                  "--format=%i|%T|%r")  # fmt: skip
    infos = {}
    for line in listed.splitlines():
        job, state, reason = line.split("|")
        infos[job] = _info(state, "" if reason == "None" else reason)
    if missing := jobs - infos.keys():
        numbers = ",".join(sorted({job.partition("_")[0] for job in missing}))
        # Without --array, array tasks that ended before they started would share one row.
        words = ("--array", "--allocations", "--noheader", "--parsable2", "--format=JobID,State,ExitCode")
        with suppress(InputError):  # sacct fails if the cluster has no accounting
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
    """The largest number of tasks that the cluster allows in an array."""
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
