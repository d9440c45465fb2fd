"""`depth-pruning ui`: a free port, and an address only when the server answers."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pruning.core.errors import InputError
from pruning.tracking.browse import asked, free_port
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
