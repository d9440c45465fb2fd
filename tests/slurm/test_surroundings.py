"""A results folder that is not writable for a moment, and an MLflow server that is down."""

from __future__ import annotations

from pruning.launcher.cell_state import StateName, cell_states
from tests.slurm.conftest import Grid, until


def test_a_results_folder_that_cannot_be_written_for_a_moment(grid: Grid) -> None:
    words = ("-m", "algo=one_shot,greedy", "k=2")
    grid.expect(greedy=(5, "hold"))
    grid.submit(*words)
    until(lambda: any("one_shot" in key for key in done(grid)), "the other cell")
    grid.reaches("greedy", 5)
    job, away = grid.job("greedy"), grid.folder / "away"
    grid.results.rename(away)
    grid.results.touch()  # root can write to every folder, but not into a file
    grid.go()
    grid.cluster.ends(job, "FAILED")
    grid.results.unlink()
    away.rename(grid.results)
    grid.cluster.ends(grid.job("one_shot"), "COMPLETED")
    greedy = next(cell for cell in cell_states(grid.results).values() if "greedy" in cell.key)
    assert greedy.state is StateName.FAILED
    assert "SLURM: FAILED" in greedy.reason
    grid.completes(*words)


def done(grid: Grid) -> list[str]:
    return [key for key, cell in cell_states(grid.results).items() if cell.state is StateName.DONE]


def test_a_tracking_server_that_is_down_costs_no_cell(grid: Grid) -> None:
    cells = ("-m", "algo=one_shot,greedy", "k=1")
    ended = grid.run(*cells, "tracker.uri=http://127.0.0.1:9", tracker="mlflow")
    assert ended.status == 0, ended.out + ended.err
    assert "the tracker could not start" in ended.err
    assert "results are safe" in ended.err
    for part in ("one_shot", "greedy"):
        grid.cluster.ends(grid.job(part), "COMPLETED")
    grid.completes(*cells)
