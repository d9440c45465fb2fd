"""`depth-pruning ui`: a free port, and an address only when the server answers."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from pruning.core.errors import InputError, PruningError
from pruning.tracking.browse import asked, check_artifacts, experiment_of, free_port, main
from pruning.tracking.client import connect
from pruning.tracking.mlflow_run import summary
from pruning.tracking.store import MLflow
from tests.helpers.subprocesses import ROOT


@pytest.mark.parametrize(
    ("words", "port"), [([], 5000), (["port=5001"], 5001), (["here", "port=5002"], 5002)]
)
def test_a_folder_and_a_port_can_be_given(words: list[str], port: int, tmp_path: Path) -> None:
    folder, chosen = asked(words)
    assert (folder.name, chosen) == ("here" if "here" in words else "results", port)


@pytest.mark.parametrize("words", [["a", "b"], ["--port", "5"], ["port=70000"], ["port=x"]])
def test_other_words_are_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match=words[-1]):
        asked(words)


def test_spaces_beside_an_equals_sign_are_cured() -> None:
    with pytest.raises(InputError, match="Write port=5"):
        asked(["port", "=", "5"])


def test_a_taken_port_is_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        chosen = free_port(port)
    assert chosen > port
    assert str(port) in capsys.readouterr().out
    assert free_port(port) == port


def test_the_first_columns_are_rounded_numbers_of_the_last_model() -> None:
    pruned = {
        "ppl/a": 12.3456,
        "ppl/a/stderr": 9.0,
        "ppl/b": 5.0,
        "acc/x": 0.5,
        "acc/y": 0.25,
        "acc_plain/x": 0.9,
    }
    assert [*summary({"dense": {}, "pruned": pruned})] == [("ppl", 12.35, 0), ("acc", 0.375, 0)]
    assert [*summary({"pruned": pruned, "healed": {"ppl/a": 10.0}})] == [("ppl", 10.0, 0)]


@pytest.fixture
def tracked(tmp_path: Path) -> Path:
    """A results folder with a store in which one run has its artifacts in the folder."""
    results = tmp_path / "results"
    results.mkdir()
    MLflow().start(results)
    client = connect(f"sqlite:///{results / 'mlflow.db'}")
    client.create_run(experiment_of(results))
    return results


@pytest.mark.parametrize(
    ("uri", "refused"),
    [
        (None, False),
        ("{outside}/gone", False),  # from before the results folder was moved
        ("{outside}", True),
        ("file://{outside}", True),
        ("file://{results}/%2e%2e/outside", True),
        ("{results}/link", True),
        ("s3://bucket/folder", True),
        ("mlflow-artifacts:/1", True),
    ],
)
@pytest.mark.parametrize("table", ["runs", "trace"])
def test_the_browser_reads_no_files_outside_the_results(
    tracked: Path, tmp_path: Path, uri: str | None, refused: bool, table: str
) -> None:
    (outside := tmp_path / "outside").mkdir()
    (tracked / "link").symlink_to(outside)
    with closing(sqlite3.connect(tracked / "mlflow.db")) as store, store:
        if uri is not None and table == "runs":
            store.execute("update runs set artifact_uri = ?", [uri.format(outside=outside, results=tracked)])
        elif uri is not None:
            tag = ("mlflow.artifactLocation", uri.format(outside=outside, results=tracked), "a trace")
            store.execute("insert into trace_tags (key, value, request_id) values (?, ?, ?)", tag)
    with (
        pytest.raises(PruningError, match=r"artifact folder .*depth-pruning track")
        if refused
        else nullcontext()
    ):
        check_artifacts(tracked)


def test_a_stranger_s_store_is_refused_before_the_server_starts(
    tracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(tracked / "mlflow.db")) as store, store:
        store.execute("update runs set artifact_uri = '/etc'")
    monkeypatch.setattr("sys.argv", ["depth-pruning ui", str(tracked)])
    monkeypatch.setattr("subprocess.Popen", None)  # starting a server would fail
    with pytest.raises(PruningError, match="artifact folder /etc"):
        main()


@pytest.mark.slow
def test_the_address_answers_when_it_is_printed_and_the_server_ends_with_the_command(tmp_path: Path) -> None:
    MLflow().start(tmp_path)
    command = [sys.executable, "-m", "pruning.commands", "ui", str(tmp_path), "port=5321"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as ui:
        assert ui.stdout is not None
        printed = ""
        while "ready" not in printed:
            line = ui.stdout.readline()
            assert line, printed
            printed += line
        found = re.search(r"http://127.0.0.1:(\d+)/", printed)
        assert found, printed
        address = f"http://127.0.0.1:{found[1]}/health"
        assert urllib.request.urlopen(address, timeout=60).status == 200
        ui.terminate()
        assert ui.wait(60) == 0
    assert "INFO" not in printed
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=5)
