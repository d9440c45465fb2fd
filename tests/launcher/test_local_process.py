"""Processes by name: only the process that a name describes is ended."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pruning.launcher import submission
from pruning.launcher.submission import end, is_here, process, process_name


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose command line names a file of the results folder `tmp_path`, as that of a job does."""
    started = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path / "job.sh")]
    )
    yield started
    started.kill()
    started.wait()


@pytest.mark.parametrize("host", ["node-2", "a-node-2", "nodes"])
def test_a_process_of_a_machine_with_a_similar_name_is_not_ended(
    host: str, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(submission.socket, "gethostname", lambda: "node")
    born = process_name(sleeper.pid).rpartition("-")[2]
    name = f"process-{host}-{sleeper.pid}-{born}"  # that machine has a process with the same number
    assert process(name).active, "it is assumed to run"
    assert not is_here(name)
    end(name, tmp_path)
    assert sleeper.poll() is None


def test_a_process_that_has_taken_over_a_number_is_not_ended(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    name = f"process-{socket.gethostname()}-{sleeper.pid}-12"
    assert not process(name).active
    end(name, tmp_path)
    assert sleeper.poll() is None


def test_a_process_of_this_machine_is_ended(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    name = process_name(sleeper.pid)
    assert is_here(name)
    end(name, tmp_path)
    sleeper.wait(10)
    assert not process(name).active


def test_a_process_of_another_folder_is_not_ended(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    end(process_name(sleeper.pid), tmp_path / "copied")
    assert sleeper.poll() is None
