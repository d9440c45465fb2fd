"""A SLURM cluster of two nodes on this machine, and grids of jobs on it that fail as a test plans."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pruning.launcher.submission import Submission, latest, submissions
from tests.conftest import Command, Ended
from tests.helpers.jobs import journals

SCRIPT, FAULTY = Path(__file__).parent / "cluster.sh", Path(__file__).parent / "faulty.py"
TINY = ["model.resources.gpus_per_rank=0", "model.resources.cpus_per_rank=1", "model.resources.memory_gb=0.9"]
PATIENCE = 900  # seconds: a slow machine is not an error


@dataclass(frozen=True)
class Cluster:
    """The commands of the cluster."""

    def call(self, *command: str) -> str:
        """The output of a command."""
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def script(self, *words: str) -> str:
        """The output of `cluster.sh`."""
        return self.call("bash", str(SCRIPT), *words)

    def state(self, job: str) -> str:
        """The state of a job in the accounting, in one word; empty if it is unknown."""
        # A task of an array that never started has no row of its own unless all tasks are listed.
        which = ("--array", "-X", f"--jobs={job.partition('_')[0]}")
        rows = self.call("sacct", *which, "--noheader", "--parsable2", "--format=JobID,State").splitlines()
        states = dict(row.split("|") for row in rows)
        return states[job].split()[0] if job in states else ""

    def node(self, job: str) -> str:
        """The node on which a job runs."""
        return self.call("squeue", "--noheader", "--format=%N", f"--jobs={job}").strip()

    def ends(self, job: str, state: str) -> None:
        """Wait until a job has ended in a state: the accounting lags, and cancelled jobs run on for a moment."""
        until(lambda: self.state(job) == state, f"{job} to be {state}", lambda: self.state(job))
        until(lambda: not self.call("squeue", "--noheader", f"--jobs={job}").strip(), f"{job} to be gone")


def until(condition: Callable[[], bool], what: str, now: Callable[[], object] = lambda: "not") -> None:
    """Wait until a condition holds; fail after PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"no success within {PATIENCE} s: waited for {what}; now: {now()}"
        time.sleep(0.3)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if os.environ.get("TEST_SLURM") != "1":
        pytest.skip("make test-slurm runs it: SLURM is installed and its daemons are started as root")
    if os.geteuid() != 0:
        pytest.skip("the daemons of SLURM need root")
    if shutil.which("slurmctld") is None and shutil.which("apt-get") is None:
        pytest.skip("there is no SLURM, and no apt-get to install it")
    running = Cluster()
    was_up = subprocess.run(["bash", str(SCRIPT), "is-up"], check=False).returncode == 0
    os.environ["SLURM_CONF"] = running.script("up").splitlines()[-1]
    yield running
    if not was_up:
        running.script("down")


@dataclass(frozen=True)
class Grid:
    """Cells of the tiny model as jobs, without sharing, so that each journal is the same as without other cells."""

    launch: Command
    cluster: Cluster
    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    def expect(self, **faults: tuple[int, str]) -> None:
        """Plan a fault for each cell whose name contains the keyword: (lines of the journal, action after them)."""
        self.plan.write_text(json.dumps({part: {"after": n, "do": do} for part, (n, do) in faults.items()}))

    def go(self, on: bool = True) -> None:
        """Let waiting cells go on; with on=False, let them wait again."""
        go = self.plan.with_name(f"{self.plan.name}.go")
        go.touch() if on else go.unlink(missing_ok=True)

    def run(self, *words: str, **more: Any) -> Ended:
        """Run the command; it waits unless the words contain `launcher.wait=false`."""
        python = f"'launcher.python=\"{sys.executable} {FAULTY} {self.plan}\"'".strip("'")
        chosen = [
            "launcher=slurm",
            python,
            "launcher.warning_seconds=15",
            "model.resources.minutes=10",
            *TINY,
        ]
        names = {word.lstrip("+").partition("=")[0] for word in words}
        defaults = [word for word in chosen if word.partition("=")[0] not in names]
        return self.launch(*defaults, "scores.share=false", *words, **more)

    def submit(self, *words: str) -> list[Submission]:
        """Run the command without waiting; returns the new submissions."""
        before = {record.name for record in submissions(self.results)}
        ended = self.run(*words, "launcher.wait=false")
        assert ended.status == 0, ended.err
        return [record for record in submissions(self.results) if record.name not in before]

    def job(self, part: str) -> str:
        """The last job of the cell whose name contains `part`."""
        ((key, record),) = [(key, last) for key, last in latest(self.results).items() if part in key]
        return record.jobs[key]

    def log(self, part: str) -> str:
        """The stderr of the last job of a cell."""
        (path,) = self.results.glob(f"jobs/*/{self.job(part)}_0_log.err")
        return path.read_text()

    def lines(self, part: str) -> int:
        """The number of lines in the journal of a cell."""
        return sum(path.read_bytes().count(b"\n") for path in self.results.glob(f"*{part}*/trace.jsonl"))

    def reaches(self, part: str, lines: int) -> None:
        """Wait until the journal of a cell has this many lines."""
        until(lambda: self.lines(part) >= lines, f"{part} to write {lines} lines", lambda: self.lines(part))

    def completes(self, *words: str) -> None:
        """Check that the same command completes the grid and that all journals are as without faults."""
        ended = self.run(*words)
        assert ended.status == 0, ended.out + ended.err
        alike = [word for word in words if not word.lstrip("+").startswith("launcher.")]
        plain = self.launch(*alike, "scores.share=false", f"paths.results={self.folder / 'plain'}")
        assert plain.status == 0, plain.err
        assert journals(self.results) == journals(self.folder / "plain")
        assert len(ended.all()) == len(journals(self.results))
        for cell in journals(self.results):
            self.paid_once(cell)

    def paid_once(self, cell: str) -> None:
        """Check that no evaluation was computed again after it was written."""
        written = set()
        for line in self.plan.with_name(f"{self.plan.name}.{cell}").read_text().splitlines():
            what, _, mask = line.partition(" ")
            assert (what, mask) == ("written", mask) or mask not in written, (
                f"{cell}: {mask} was computed again"
            )
            written |= {mask} if what == "written" else set()
        assert written


@pytest.fixture
def grid(cluster: Cluster, launch: Command, tmp_path: Path) -> Grid:
    made = Grid(launch, cluster, tmp_path)
    made.expect()
    return made
