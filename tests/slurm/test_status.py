"""`depth-pruning status` on a real cluster: show and cancel; the same command tries again."""

from __future__ import annotations

import subprocess

from pruning.launcher.submission import submissions
from tests.helpers.commands import depth_pruning
from tests.slurm.conftest import Grid

GRID = ("-m", "algo=one_shot,greedy,beam", "k=2", "launcher.parallel=2")


def status(grid: Grid, *words: str) -> subprocess.CompletedProcess[str]:
    return depth_pruning(grid.folder, "status", *words, str(grid.results))


def test_cells_are_shown_and_cancelled_and_the_same_command_submits_them_again(grid: Grid) -> None:
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
    ended = grid.run(*GRID)
    assert "0 in flight, 3 to submit" in ended.err
    assert len(list(submissions(grid.results))) == 2
    grid.completes(*GRID)
    assert status(grid).returncode == 0
    assert "3 cells recorded" in depth_pruning(grid.folder, "track", str(grid.results)).stderr
