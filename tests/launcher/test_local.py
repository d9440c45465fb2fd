"""Cells as processes of this machine: a bounded number, with separate GPUs, and the results of a single process."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import submitit

from pruning.launcher import local
from pruning.launcher.cell_state import StateName
from pruning.launcher.local import LocalPool, end_family
from pruning.models.handle import Resources
from tests.conftest import Command
from tests.helpers.jobs import journals
from tests.helpers.launchers import result, task

GRID = ("-m", "algo=one_shot,greedy", "k=2", "scores.share=false")


@pytest.mark.slow
def test_a_grid_in_processes_equals_one_in_this_process(launch: Command, tmp_path: Path) -> None:
    plain = launch(*GRID, f"paths.results={tmp_path / 'plain'}")
    assert plain.status == 0
    ended = launch(*GRID, "launcher=processes", "launcher.parallel=2")
    assert ended.status == 0, ended.err
    assert journals(ended.results) == journals(tmp_path / "plain")
    again = launch(*GRID, "launcher=processes")
    assert again.nothing_ran
    assert len(list(ended.results.glob("jobs/cells-*"))) == 1


ONE, TWO, THREE = Resources(), Resources(ranks=2, gpus_per_rank=1), "GPU-a,GPU-b,GPU-c"


@pytest.mark.parametrize(
    ("visible", "launcher", "asked", "used", "free"),
    [
        (THREE, LocalPool(), TWO, [], ["GPU-a", "GPU-b"]),
        (THREE, LocalPool(), TWO, [["GPU-a", "GPU-b"]], None),
        (THREE, LocalPool(), ONE, [["GPU-a", "GPU-b"]], ["GPU-c"]),
        (THREE, LocalPool(parallel=5), ONE, [], ["GPU-a"]),
        (THREE, LocalPool(parallel=1), ONE, [["GPU-a"]], None),
        ("", LocalPool(), ONE, [], []),  # a machine without GPUs runs two
        ("", LocalPool(), ONE, [[], []], None),
    ],
)
def test_each_cell_gets_a_slot_and_gpus_of_its_own(
    visible: str,
    launcher: LocalPool,
    asked: Resources,
    used: list[list[str]],
    free: list[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert launcher.free_gpus(asked, used) == free


class Executor(submitit.LocalExecutor):
    """Starts `sleep` for each cell; a cell `quick` writes a result and ends at once."""

    started: list[subprocess.Popen[bytes]]

    def submit(self, run: Any, *_: Any) -> Any:
        seconds = "0" if run.key.startswith("quick") else "60"
        if seconds == "0":
            result(self.folder.parents[1], run.key)
        self.started.append(subprocess.Popen(["sh", "-c", f"sleep {seconds} & wait"]))
        process = self.started[-1]
        stderr = self.folder / f"{process.pid}_0_log.err"
        return SimpleNamespace(
            job_id=str(process.pid),
            done=lambda: process.poll() is not None,
            paths=SimpleNamespace(stderr=stderr),
        )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that launchers start."""
    Executor.started = []
    monkeypatch.setattr(submitit, "LocalExecutor", Executor)
    return Executor.started


def test_cells_wait_for_a_slot_and_a_process_without_a_result_is_lost(
    started: list[subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = []

    def look(_: float) -> None:
        alive = [process for process in started if process.poll() is None]
        most.append(len(alive))
        if len(started) == 4:
            end_family(started[2].pid)  # `c` dies

    monkeypatch.setattr(local.time, "sleep", look)
    tasks = [task("quick-a"), task("quick-b"), task("c"), task("quick-d")]
    ended = LocalPool(parallel=2).run(tmp_path, tasks, str(tmp_path))
    assert {key: cell.state for key, cell in ended.items()} == {
        "quick-a": StateName.DONE, "quick-b": StateName.DONE, "c": StateName.LOST, "quick-d": StateName.DONE,
    }  # fmt: skip
    assert max(most) <= 2
    assert ended["c"].failure()["error"]["log"].endswith("_0_log.err")


def test_an_interrupted_command_ends_its_processes_with_what_they_started(
    started: list[subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    families: list[psutil.Process] = []

    def interrupt(_: float) -> None:
        families.extend(child for one in started for child in psutil.Process(one.pid).children())
        raise KeyboardInterrupt

    monkeypatch.setattr(local.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        LocalPool(parallel=2).run(tmp_path, [task("a"), task("b"), task("c")], str(tmp_path))
    assert len(started) == 2
    assert all(process.wait(10) is not None for process in started)
    assert not psutil.wait_procs(families, timeout=10)[1]
