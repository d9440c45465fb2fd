"""Failing cells on a real cluster: the other cells finish, and the same command completes the grid."""

from __future__ import annotations

from pathlib import Path

from pruning.launcher.submission import submissions
from tests.slurm.conftest import Grid

GRID = ("-m", "algo=one_shot,greedy,beam,contiguous", "k=2", "launcher.parallel=4")


def test_cells_raise_exit_and_are_killed(grid: Grid) -> None:
    grid.expect(one_shot=(3, "raise"), greedy=(4, "exit"), beam=(5, "kill"))
    ended = grid.run(*GRID)
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
    grid.completes(*GRID)
    (first, second) = submissions(grid.results)
    assert (len(first.jobs), len(second.jobs)) == (4, 3), "a finished cell is not submitted again"
