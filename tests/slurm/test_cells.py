"""Grids on a real cluster: failing cells, ranks, resources, order, status, and what is not there for a moment."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pruning.launcher.submission import submissions
from tests.helpers.commands import depth_pruning
from tests.helpers.jobs import journals
from tests.slurm.conftest import Grid

FOUR = ("-m", "algo=one_shot,greedy,beam,contiguous", "k=2", "launcher.parallel=4")


def test_cells_raise_exit_and_are_killed(grid: Grid) -> None:
    grid.expect(one_shot=(3, "raise"), greedy=(4, "exit"), beam=(5, "kill"))
    ended = grid.run(*FOUR)
    assert ended.status == 1
    assert "3 of 4 cells failed" in ended.out
    assert "a planned fault" in ended.out, "the cell itself recorded the reason"
    assert "(SLURM: FAILED)" in ended.out, "SLURM reports the cells that could not record a reason"
    for part, state in (
        ("one_shot", "FAILED"),
        ("greedy", "FAILED"),
        ("beam", "FAILED"),
        ("contiguous", "COMPLETED"),
    ):
        grid.cluster.ends(grid.job(part), state)
    logs = [line.split()[-1] for line in ended.out.splitlines() if "results/" in line and "tiny-" in line]
    assert all(Path(log).stat().st_size for log in logs if log.startswith("/"))
    grid.completes(*FOUR)
    (first, second) = submissions(grid.results)
    assert (len(first.jobs), len(second.jobs)) == (4, 3), "a finished cell is not submitted again"


LONG = (
    "-m",
    "algo=one_shot,greedy",
    "k=2",
    *("calibration.samples=5", "calibration.length=700"),  # several batches, so that each rank gets some
)


@pytest.mark.parametrize(("nodes", "ranks"), [(1, 2), (2, 1)])
def test_ranks_give_the_losses_of_one_process(grid: Grid, tmp_path: Path, nodes: int, ranks: int) -> None:
    grid.expect(greedy=(4, "kill"))
    words = (f"model.resources.nodes={nodes}", f"model.resources.ranks={ranks}")
    ended = grid.run(*LONG, *words)
    assert ended.status == 1
    assert "1 of 2 cells failed" in ended.out
    again = grid.run(*LONG, *words)
    assert again.status == 0, again.out + again.err
    plain = grid.launch(*LONG, "scores.share=false", f"paths.results={tmp_path / 'plain'}")
    assert plain.status == 0, plain.err
    assert journals(grid.results) == journals(tmp_path / "plain")
    tasks = {
        path.name.rpartition("_log")[0].rpartition("_")[2] for path in grid.results.glob("jobs/*/*_log.err")
    }
    assert tasks == {"0", "1"}


THREE = ("-m", "algo=one_shot,greedy,beam", "k=2", "launcher.parallel=2")


def status(grid: Grid, *words: str) -> subprocess.CompletedProcess[str]:
    return depth_pruning(grid.folder, "status", *words, str(grid.results))


def test_cells_are_shown_and_cancelled_and_the_same_command_submits_them_again(grid: Grid) -> None:
    grid.expect(greedy=(5, "hold"), beam=(5, "hold"), one_shot=(3, "raise"))
    grid.submit(*THREE)
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
    ended = grid.run(*THREE)
    assert "0 in flight, 3 to submit" in ended.err
    assert len(list(submissions(grid.results))) == 2
    grid.completes(*THREE)
    assert status(grid).returncode == 0
    assert "3 cells recorded" in depth_pruning(grid.folder, "track", str(grid.results)).stderr
