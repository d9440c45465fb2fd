"""Runs on a server are those in the file beside the results, and a server that does not answer costs one line."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pruning.tracking.rebuild import record_all
from tests.helpers.analysis_grid import ONE, write
from tests.helpers.mlflow_runs import described, runs


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server, in a thread of this process, over an SQLite file."""
    from werkzeug.serving import make_server

    settings = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{tmp_path / 'server.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": (tmp_path / "artifacts").as_uri(),
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


def test_runs_on_a_server_and_in_a_file_are_the_same(server: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    write(results, replace(ONE, objectives=("perplexity",), cells=[]))
    assert record_all(results) == record_all(results, server) == record_all(results, server) > 1
    file = f"sqlite:///{results / 'mlflow.db'}"
    there, here = runs(server), runs(file)
    assert there.keys() == here.keys()
    for name, run in here.items():
        description = described(server, there[name])
        assert description == described(file, run)
        assert description["ended"] == ("FINISHED", False, False)
