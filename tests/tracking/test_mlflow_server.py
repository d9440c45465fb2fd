"""Live runs on a server equal collected ones, and no server can harm a cell."""

from __future__ import annotations

import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pruning.tracking.mlflow_server import Server

from pruning.core.errors import InputError
from pruning.launcher.scheduler import process_name
from pruning.tracking import rebuild
from pruning.tracking.client import connect
from tests.conftest import Command
from tests.helpers.mlflow_runs import described, runs


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server, in a thread of this process, over an SQLite file."""
    from werkzeug.serving import make_server

    folder = tmp_path_factory.mktemp("server")
    settings = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'server.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": (folder / "artifacts").as_uri(),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        with warnings.catch_warnings():  # Starlette warns when MLflow imports it
            warnings.simplefilter("ignore")
            import mlflow.server.fastapi_app  # noqa: F401 - otherwise imported by the first request
            from mlflow.server import app
        running = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


GRID = ("-m", "algo=one_shot,greedy", "k=2", "study=both", "scores.share=false")


def test_live_and_collected_runs_are_the_same(launch: Command, tmp_path: Path, server: str) -> None:
    live = launch(*GRID, "tracker=server", f"tracker.uri={server}", "tracker.every=0.05")
    assert live.status == 0, live.err
    assert "tracker" not in live.err
    collected = launch(*GRID, "tracker=mlflow", f"paths.results={tmp_path / 'collected'}")
    assert collected.status == 0, collected.err
    store = f"sqlite:///{tmp_path / 'collected' / 'mlflow.db'}"
    there, here = runs(server), runs(store)
    assert there.keys() == here.keys()
    assert len(here) == 2
    for name, run in here.items():
        description = described(server, there[name])
        assert description == described(store, run)
        assert description["ended"] == ("FINISHED", False, False)


def test_a_cell_can_be_watched_while_it_runs(server: str, tmp_path: Path) -> None:
    cell = Cell("watched", tmp_path)
    with Server(server, every=0.02).live(cell) as note:
        note(3, 0.75)
        note(4, 0.5)
        run = _wait_for(server, "watched")
        assert run.info.status == "RUNNING"
        assert run.data.tags["sweep"] == "some"
        assert run.data.params["model.name"] == "tiny"
    history = connect(server).get_metric_history(run.info.run_id, "search/best_so_far")
    assert [(point.step, point.value) for point in history] == [(3, 0.75), (4, 0.5)]


def test_runs_of_dead_jobs_are_closed_and_those_of_running_jobs_are_not(server: str, tmp_path: Path) -> None:
    tracker, client, alive = Server(server, every=0.02), connect(server), process_name(os.getpid())
    jobs = {"alive": alive, "dead": f"{alive.rpartition('-')[0]}-1"}  # the same number, started long ago
    for name, job in jobs.items():
        with tracker.live(Cell(name, tmp_path)) as note:
            note(1, 0.5)
            run = _wait_for(server, name)
            client.set_tag(run.info.run_id, "job", job)
    with tracker.live(Cell("other", tmp_path / "another folder")) as note:
        note(1, 0.5)
        client.set_tag(_wait_for(server, "other").info.run_id, "job", jobs["dead"])
    tracker.record(tmp_path, [])
    by_name = runs(server)
    states = {name: by_name[name].info.status for name in ("dead", "alive", "other")}
    assert states == {"dead": "KILLED", "alive": "RUNNING", "other": "RUNNING"}
    with tracker.live(Cell("dead", tmp_path)) as note:  # started again
        note(2, 0.25)
        again = _wait_for(server, "dead", points=2)
    assert (again.info.run_id, again.info.status) == (by_name["dead"].info.run_id, "RUNNING")


def test_runs_that_a_server_missed_while_it_was_down_are_sent_later(
    launch: Command, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    started = time.monotonic()
    ended = launch(
        "algo=one_shot", "k=3", "study=late", "tracker=server", f"tracker.uri={nobody}", "tracker.patience=5"
    )
    assert ended.status == 0, ended.err
    assert time.monotonic() - started < 60
    assert "depth-pruning track" in ended.err
    (cell,) = [result["cell"] for result in ended.all()]
    assert cell not in runs(server)
    monkeypatch.setattr("sys.argv", ["track", str(ended.results), f"tracker.uri={server}"])
    rebuild.main()
    assert runs(server)[cell].info.status == "FINISHED"


def test_a_server_that_never_answers_holds_no_cell_up(tmp_path: Path) -> None:
    class Asleep(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asleep.wait(30)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    asleep = threading.Event()
    slow = ThreadingHTTPServer(("127.0.0.1", 0), Asleep)
    slow.daemon_threads = True
    threading.Thread(target=slow.serve_forever, daemon=True).start()
    tracker = Server(f"http://127.0.0.1:{slow.server_port}", every=0.02, patience=0.3)
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "result.json").write_text("{}")
    started = time.monotonic()
    with tracker.live(Cell("cell", tmp_path)) as note:
        note(1, 0.5)
    tracker.finished(tmp_path / "cell")
    assert time.monotonic() - started < 5
    asleep.set()
    slow.shutdown()
    slow.server_close()


@pytest.mark.parametrize("uri", [None, "sqlite:///runs.db", "localhost:5000"])
def test_an_address_of_no_server_is_refused(uri: str | None) -> None:
    with pytest.raises(InputError, match=rf"tracker\.uri={uri} .*http://HOST:PORT"):
        Server(uri)


class Cell:
    """The attributes of a cell that a tracker uses."""

    def __init__(self, key: str, results: Path) -> None:
        self.key, self.results, self.study = key, results, "some"
        self.config = {"model": {"name": "tiny"}, "study": "some"}


def _wait_for(uri: str, name: str, points: int = 1) -> Any:
    """Wait for the run of a cell until it has at least `points` points; returns it."""
    client, end = connect(uri), time.monotonic() + 30
    while time.monotonic() < end:
        experiment = client.get_experiment_by_name("depth-pruning")
        runs_of_cell = (
            client.search_runs([experiment.experiment_id], f"tags.cell = '{name}'") if experiment else []
        )
        for run in runs_of_cell:
            if len(client.get_metric_history(run.info.run_id, "search/best_so_far")) >= points:
                return run
        time.sleep(0.05)
    raise AssertionError(f"no run of {name}")
