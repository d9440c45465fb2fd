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


def test_a_killed_command_is_started_again_and_submits_nothing_twice(grid: Grid) -> None:
    grid.expect(greedy=(5, "hold"))
    driver = beside(grid, GRID)
    try:
        grid.reaches("greedy", 5)
    finally:
        driver.kill()
        driver.communicate()
    grid.go()
    grid.completes(*GRID)
    (record,) = submissions(grid.results)
    for job in record.jobs.values():
        grid.cluster.ends(job, "COMPLETED")


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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, which the test changes."""
    for name in ("pruning", "conf", "hydra_plugins"):
        shutil.copytree(job_module.ROOT / name, tmp_path / "project" / name)
    shutil.copy(job_module.ROOT / "launch.py", tmp_path / "project")
    return tmp_path / "project"


def test_cells_run_the_code_they_were_submitted_with(grid: Grid, project: Path) -> None:
    words = (*GRID, "launcher.wait=false", "+launcher.options.hold=true")
    driver = beside(grid, words, project)
    _, err = driver.communicate()
    assert driver.returncode == 0, err
    for path in ("pruning/search/driver.py", "pruning/launcher/job.py", "pruning/runs/run_cell.py"):
        with (project / path).open("a") as stream:
            stream.write("raise RuntimeError('changed since')\n")
    (record,) = submissions(grid.results)
    for job in record.jobs.values():
        grid.cluster.call("scontrol", "release", job)
    keys = list(record.jobs)
    until(
        lambda: all(cell.state is StateName.DONE for cell in cell_states(grid.results, keys).values()),
        "both cells",
    )
    for job in record.jobs.values():
        grid.cluster.ends(job, "COMPLETED")
    grid.completes(*GRID)


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


def test_preemption_with_the_jobs_own_signal(grid: Grid) -> None:
    preempt(grid, warned=True)  # below ten minutes, submitit treats each signal as a time limit


def test_preemption_without_a_signal(grid: Grid) -> None:
    preempt(grid, "+launcher.options.signal=CONT@1", warned=False)


def preempt(grid: Grid, *options: str, warned: bool) -> None:
    """Preempt a running cell: a job of a partition with a higher priority takes both nodes.

    Without a warning SLURM kills the job's process and its `srun` together, so what the process wrote last can be
    missing from the log. Only a warning's line is certain to be there.
    """
    words = (*GRID, *options, "launcher.partition=low")
    grid.expect(greedy=(5, "hold"))
    grid.submit(*words)
    grid.reaches("greedy", 5)
    job, urgent = grid.job("greedy"), ("--nodes=2", "--exclusive", "--partition=main", "--output=/dev/null")
    other = grid.cluster.call("sbatch", "--parsable", *urgent, "--wrap=sleep 2").strip()
    until(lambda: restarts(grid.cluster, job) >= 1, "the cell to be preempted")
    grid.go()
    ended = grid.run(*words)
    assert ended.status == 0, ended.out + ended.err
    for number in (other, job, grid.job("one_shot")):
        grid.cluster.ends(number, "COMPLETED")
    assert ("this job is timed-out" in grid.log("greedy")) == warned
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


def test_a_node_dies(grid: Grid) -> None:
    words = ("-m", "algo=greedy,beam", "k=2", "model.resources.cpus_per_rank=3")  # one cell per node
    grid.expect(greedy=(5, "hold"), beam=(5, "hold"))
    grid.submit(*words)
    for part in ("greedy", "beam"):
        grid.reaches(part, 5)
    job, node = grid.job("greedy"), grid.cluster.node(grid.job("greedy"))
    assert node != grid.cluster.node(grid.job("beam"))
    grid.cluster.script("stop-node", node)
    try:
        until(lambda: restarts(grid.cluster, job) == 1, "the job to leave the dead node")
        grid.go()
        ended = grid.run(*words)
        assert ended.status == 0, ended.out + ended.err
    finally:
        grid.cluster.script("start-node", node)
    for part in ("greedy", "beam"):
        grid.cluster.ends(grid.job(part), "COMPLETED")
    grid.completes(*words)
