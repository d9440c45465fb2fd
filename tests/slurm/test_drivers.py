"""Commands that are killed, and code that changes, while cells are queued."""

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
from tests.slurm.conftest import Grid, until

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
