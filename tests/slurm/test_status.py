"""`depth-pruning status` on a real cluster: show, cancel, retry, collect."""

from __future__ import annotations

import shlex
import subprocess
import sys

from pruning.launcher.submission import submissions
from tests.slurm.conftest import Grid

GRID = ("-m", "algo=one_shot,greedy,beam", "k=2", "launcher.parallel=2")


def status(grid: Grid, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pruning.status", *words, str(grid.results)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_cells_are_shown_cancelled_and_submitted_again(grid: Grid) -> None:
    grid.expect(greedy=(5, "hold"), beam=(5, "hold"), one_shot=(3, "raise"))
    grid.submit(*GRID)
    grid.reaches("greedy", 5)
    grid.cluster.ends(grid.job("one_shot"), "FAILED")
    grid.reaches("beam", 5)
    shown = status(grid)
    rows = {
        name: next(line for line in shown.stdout.splitlines() if name in line)
        for name in ("greedy", "one_shot")
    }
    assert shown.returncode == 1, "a cell has failed"
    assert ("running" in rows["greedy"], "4/" in rows["greedy"]) == (True, True)
    assert "RuntimeError: a planned fault" in rows["one_shot"]
    assert "launch.log" in rows["one_shot"]
    assert "3 cells: 2 running, 1 failed" in shown.stdout
    assert "2 cells were in flight and are cancelled" in status(grid, "cancel").stdout
    for part in ("greedy", "beam"):
        grid.cluster.ends(grid.job(part), "CANCELLED")
    assert "cancelled" in status(grid).stdout
    grid.go()
    refused = status(grid, "retry")
    assert "launcher.python" in refused.stderr, "a recorded command runs only if this command gives it, too"
    needed = shlex.split(refused.stderr.strip().splitlines()[-1])
    again = status(grid, "retry", *(word for word in needed if word.startswith("launcher.")))
    assert "3 cells are submitted again" in again.stdout, again.stderr
    assert len(list(submissions(grid.results))) == 2
    ended = grid.run(*GRID)
    assert "3 in flight, 0 to submit" in ended.err, "the same command waits for what is in flight"
    grid.completes(*GRID)
    assert status(grid).returncode == 0
    assert "3 cells with a result are recorded" in status(grid, "collect").stdout
