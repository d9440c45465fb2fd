"""Cells on several ranks of a job, on one node and on two, give the results of one process, even after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.jobs import journals
from tests.slurm.conftest import Grid

GRID = (
    "-m",
    "algo=one_shot,greedy",
    "k=2",
    *("calibration.samples=5", "calibration.length=700"),  # several batches, so that each rank gets some
)


@pytest.mark.parametrize(("nodes", "ranks"), [(1, 2), (2, 1)])
def test_ranks_give_the_losses_of_one_process(grid: Grid, tmp_path: Path, nodes: int, ranks: int) -> None:
    grid.expect(greedy=(4, "kill"))
    words = (f"model.resources.nodes={nodes}", f"model.resources.ranks={ranks}")
    ended = grid.run(*GRID, *words)
    assert ended.status == 1
    assert "1 of 2 cells failed" in ended.out
    again = grid.run(*GRID, *words)
    assert again.status == 0, again.out + again.err
    plain = grid.launch(*GRID, "scores.share=false", f"paths.results={tmp_path / 'plain'}")
    assert plain.status == 0, plain.err
    assert journals(grid.results) == journals(tmp_path / "plain")
    tasks = {
        path.name.rpartition("_log")[0].rpartition("_")[2] for path in grid.results.glob("jobs/*/*_log.err")
    }
    assert tasks == {"0", "1"}
