"""Cancelling cells while their command starts the next ones. `tests/study/test_status.py` has the other actions."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from pruning.launcher import submit
from pruning.launcher.cell_state import State, cell_states
from pruning.launcher.local import LocalPool
from pruning.launcher.submit import cancel
from tests.helpers.launchers import sleeping_cells, stop, task


@pytest.fixture
def sleepers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that launchers start."""
    started = sleeping_cells(monkeypatch)
    yield started
    stop(started)


def test_a_cell_that_would_start_during_a_cancel_does_not_run(
    sleepers: list[subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = LocalPool(parallel=1)
    command.submit(tmp_path, [task("a"), task("b"), task("c")], str(tmp_path))
    assert command.step()
    stepping = Thread(target=command.step)

    def read(results: Path) -> Any:
        found = cell_states(results)
        stop(sleepers[:1])  # the first cell ends just now, and its command fills the slot
        stepping.start()
        stepping.join(0.5)
        return found

    monkeypatch.setattr(submit, "cell_states", read)
    assert cancel(tmp_path) == 3
    stepping.join()
    assert not command.step()
    assert [one.poll() is None for one in sleepers] == [False]
    assert {cell.state for cell in cell_states(tmp_path).values()} == {State.FAILED}
    assert {cell.reason for cell in cell_states(tmp_path).values()} == {"cancelled"}
