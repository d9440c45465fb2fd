"""Jobs and commands that are stopped from outside and start again: nothing that was written is computed twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pruning.launcher import job as job_module
from pruning.launcher.cell_state import StateName, cell_states
from pruning.launcher.submission import submissions
from tests.slurm.conftest import Cluster, Grid, until

GRID = ("-m", "algo=one_shot,greedy", "k=2")


def beside(
    grid: Grid, words: Sequence[str], root: Path = job_module.ROOT, **env: str
) -> subprocess.Popen[str]:
    """Start the command in a separate process, with the code in `root`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("launch.main", lambda: None)
        grid.run(*words)  # leaves its words in sys.argv
    command = [sys.executable, str(root / "launch.py"), *sys.argv[1:]]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore", **env}
    return subprocess.Popen(command, cwd=grid.folder, env=environment, stderr=subprocess.PIPE, text=True)


def test_a_command_killed_between_sbatch_and_its_record_leaves_no_stray_job(grid: Grid) -> None:
    grid.expect(greedy=(5, "hold"), one_shot=(5, "hold"))
    (grid.folder / "bin").mkdir()
    sbatch = grid.folder / "bin" / "sbatch"
    sbatch.write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@" >{grid.folder}/answer\nkill -9 $PPID\n')
    sbatch.chmod(0o755)
    driver = beside(grid, GRID, PATH=f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}")
    driver.communicate()
    assert driver.returncode == -signal.SIGKILL
    array = (grid.folder / "answer").read_text().split()[-1]
    assert {cell.state for cell in cell_states(grid.results).values()} == {StateName.LOST}
    grid.go()
    grid.completes(*GRID)

    def states() -> set[str]:
        return {grid.cluster.state(f"{array}_{task}") for task in (0, 1)}

    until(lambda: states() <= {"CANCELLED", "FAILED"}, "the stray array to be cancelled", states)
    assert len(list(submissions(grid.results))) == 2


def test_a_time_limit_puts_a_cell_back_into_the_queue(grid: Grid) -> None:
    grid.expect(greedy=(5, "hold"))
    words = (*GRID, "model.resources.minutes=2", "launcher.warning_seconds=70")
    ended = grid.run(*words)
    assert ended.status == 0, ended.out + ended.err
    for part in ("greedy", "one_shot"):
        grid.cluster.ends(grid.job(part), "COMPLETED")
    assert restarts(grid.cluster, grid.job("greedy")) >= 1
    assert "this job is timed-out" in grid.log("greedy")
    grid.completes(*words)


def restarts(cluster: Cluster, job: str) -> int:
    """The number of times that SLURM has restarted a job."""
    shown = cluster.call("scontrol", "show", "job", job)
    return int(shown.partition("Restarts=")[2].split()[0])


def test_an_administrator_requeues_and_cancels_and_restarts_a_finished_job(grid: Grid) -> None:
    words = ("-m", "algo=greedy,beam,contiguous", "k=2")
    grid.expect(greedy=(5, "hold"), beam=(5, "hold"))
    grid.submit(*words)
    for part in ("greedy", "beam"):
        grid.reaches(part, 5)
    grid.cluster.call("scontrol", "requeue", grid.job("greedy"))
    grid.cluster.call("scancel", grid.job("beam"))
    grid.cluster.ends(grid.job("beam"), "CANCELLED")
    grid.go()
    ended = grid.run(*words)
    assert ended.status == 0, "the cancelled cell is submitted again: " + ended.out
    assert restarts(grid.cluster, grid.job("greedy")) == 1
    for part in ("greedy", "beam", "contiguous"):
        grid.cluster.ends(grid.job(part), "COMPLETED")
    grid.completes(*words)
    finished = grid.job("contiguous")
    grid.cluster.ends(finished, "COMPLETED")
    before = {path: path.stat().st_mtime_ns for path in grid.results.glob("*contiguous*/*")}
    grid.cluster.call("scontrol", "requeue", finished)
    until(lambda: grid.cluster.state(finished) != "COMPLETED", "the finished job to start again")
    grid.cluster.ends(finished, "COMPLETED")
    assert {path: path.stat().st_mtime_ns for path in grid.results.glob("*contiguous*/*")} == before
