"""A results folder that is not writable for a moment, and an MLflow server that is down or slow."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

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


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=take)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in taken:
            connection.close()


@pytest.mark.parametrize("how", ["down", "slow"])
@pytest.mark.parametrize("tracker", ["mlflow", "server"])
def test_a_tracking_server_that_does_not_answer_costs_no_cell(
    grid: Grid, silent: str, how: str, tracker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    uri = silent if how == "slow" else "http://127.0.0.1:9"
    cells = ("-m", "algo=one_shot,greedy", "k=1")
    live = ("tracker.patience=1", "tracker.every=0.1") if tracker == "server" else ()
    ended = grid.run(*cells, f"tracker.uri={uri}", *live, tracker=tracker)
    assert ended.status == 0, ended.out + ended.err
    assert "the tracker could not start" in ended.err
    assert "results are safe" in ended.err
    for part in ("one_shot", "greedy"):
        grid.cluster.ends(grid.job(part), "COMPLETED")
        warned = "is not recorded yet" in grid.log(part)
        assert warned == (tracker == "server"), "only a job of tracker=server sends to a server, and it warns"
    grid.completes(*cells)
