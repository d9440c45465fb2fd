"""Cells as processes of this machine: a bounded number, with separate GPUs, and the results of a single process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from pruning.core.errors import InputError
from pruning.launcher import scheduler, submit
from pruning.launcher.cell_state import StateName, cell_states
from pruning.launcher.local import LocalPool
from pruning.launcher.scheduler import end, is_here, process, process_name
from pruning.launcher.submission import submissions
from pruning.models.handle import Resources
from tests.conftest import Command
from tests.helpers.launchers import sleeping_cells, stop, submission, task

GRID = ("-m", "algo=one_shot,greedy", "k=2", "scores.share=false")


def journals(results: Path) -> dict[str, Any]:
    """The mask of each cell, and its masks, losses and terms in order."""
    contents = {}
    for path in results.glob("*/trace.jsonl"):
        scores = map(json.loads, path.read_text().splitlines())
        mask = json.loads(path.with_name("mask.json").read_text())
        contents[path.parent.name] = (mask, [(s["dropped"], s["loss"], s["samples"]) for s in scores])
    return contents


@pytest.mark.slow
def test_a_grid_in_processes_equals_one_in_this_process(launch: Command, tmp_path: Path) -> None:
    plain = launch(*GRID, f"paths.results={tmp_path / 'plain'}")
    assert plain.status == 0
    ended = launch(*GRID, "launcher=processes", "launcher.parallel=2")
    assert ended.status == 0, ended.err
    assert journals(ended.results) == journals(tmp_path / "plain")
    (record,) = submissions(ended.results)
    assert (len(record.jobs), record.complete) == (2, True)
    again = launch(*GRID, "launcher=processes")
    assert "every cell was done: 2 of 2" in again.err
    assert len(list(submissions(ended.results))) == 1


@pytest.mark.slow
def test_a_failed_cell_is_reported_and_the_same_command_tries_it_again(
    launch: Command, tmp_path: Path
) -> None:
    grid = ("-m", "algo=one_shot", "k=1", "launcher=processes")
    broken = tmp_path / "results" / "evaluation"
    broken.parent.mkdir()
    broken.write_text("a file instead of a folder")
    ended = launch(*grid)
    assert ended.status == 1
    assert "1 of 1 cells failed" in ended.out
    assert "NotADirectoryError" in ended.out or "FileExistsError" in ended.out
    broken.unlink()
    assert launch(*grid).status == 0


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c")


ONE, TWO = Resources(), Resources(ranks=2, gpus_per_rank=1)


@pytest.mark.parametrize(
    ("visible", "launcher", "asked", "used", "free"),
    [
        ("GPU-a,GPU-b,GPU-c", LocalPool(), TWO, {}, ["GPU-a", "GPU-b"]),
        ("GPU-a,GPU-b,GPU-c", LocalPool(), TWO, {"one": ["GPU-a", "GPU-b"]}, None),
        ("GPU-a,GPU-b,GPU-c", LocalPool(), ONE, {"one": ["GPU-a", "GPU-b"]}, ["GPU-c"]),
        ("GPU-a,GPU-b,GPU-c", LocalPool(), ONE, {"one": ["GPU-a", "GPU-b"], "two": ["GPU-c"]}, None),
        ("GPU-a,GPU-b,GPU-c", LocalPool(parallel=5), ONE, {}, ["GPU-a"]),
        ("GPU-a,GPU-b,GPU-c", LocalPool(parallel=1), ONE, {"one": ["GPU-a"]}, None),
        ("", LocalPool(), ONE, {}, []),  # a machine without GPUs runs two
        ("", LocalPool(), ONE, {"one": [], "two": []}, None),
    ],
)
def test_each_cell_gets_a_slot_and_gpus_of_its_own(
    visible: str,
    launcher: LocalPool,
    asked: Resources,
    used: dict[str, list[str]],
    free: list[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert launcher._free_gpus(asked, used) == free


@pytest.mark.parametrize(
    ("launcher", "asked", "message"),
    [
        (LocalPool(parallel=0), Resources(), "launcher.parallel=0"),
        (LocalPool(), Resources(nodes=2), "nodes=2 of tiny"),
        (LocalPool(), Resources(ranks=2, gpus_per_rank=2), "tiny .*4 GPUs"),
    ],
)
def test_what_this_machine_cannot_do_is_refused(
    gpus: None, launcher: LocalPool, asked: Resources, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        launcher.check({"tiny": asked})


@pytest.fixture
def sleepers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that launchers start."""
    started = sleeping_cells(monkeypatch)
    yield started
    stop(started)


def used(results: Path) -> list[str]:
    """The GPUs of all running processes, each as often as it is used."""
    records = submissions(results)
    return sorted(
        g for r in records for name, gpus in r.devices.items() if process(name).active for g in gpus
    )


def test_running_cells_of_an_earlier_command_keep_their_slots(
    gpus: None, sleepers: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    record = submission(tmp_path, task("a"), task("b"), task("c"))
    host = socket.gethostname()
    running, gone = process_name(os.getpid()), f"process-{host}-1-7"
    other = f"process-{host}-2-1-7"  # of another machine, which has GPUs of its own
    record.devices = {running: ["GPU-a"], gone: ["GPU-b"], other: ["GPU-c"]}
    record.save()
    launcher = LocalPool()
    launcher.submit(tmp_path, [task("d"), task("e"), task("f")], str(tmp_path))
    assert launcher.step(), "two GPUs are free"
    assert list(launcher._record.devices.values()) == [["GPU-b"], ["GPU-c"]]  # type: ignore[union-attr]


def test_two_commands_share_the_slots_of_a_machine(
    gpus: None, sleepers: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    first, second = LocalPool(), LocalPool()
    first.submit(tmp_path, [task(f"a{number}") for number in range(5)], str(tmp_path))
    assert first.step()
    second.submit(tmp_path, [task("b0"), task("b1")], str(tmp_path))
    assert second.step()
    assert used(tmp_path) == ["GPU-a", "GPU-b", "GPU-c"]
    stop(sleepers[:2])
    assert not first.step(), "its last cells have started in the two slots"
    assert second.step(), "no slot is left for the second command"
    assert used(tmp_path) == ["GPU-a", "GPU-b", "GPU-c"]
    stop(sleepers[2:])
    assert not second.step()
    assert used(tmp_path) == ["GPU-a", "GPU-b"]


def test_what_was_cancelled_does_not_start(tmp_path: Path) -> None:
    launcher = LocalPool()
    launcher.submit(tmp_path, [task("a"), task("b")], str(tmp_path))
    (record,) = submissions(tmp_path)
    record.cancelled.touch()
    assert not launcher.step()
    (record,) = submissions(tmp_path)
    assert (record.jobs, record.complete) == ({}, True)


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
    assert submit.cancel(tmp_path) == 3
    stepping.join()
    assert not command.step()
    assert [one.poll() is None for one in sleepers] == [False]
    ended = {(cell.state, cell.reason) for cell in cell_states(tmp_path).values()}
    assert ended == {(StateName.FAILED, "cancelled")}


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose command line names a file of the results folder `tmp_path`, as that of a job does."""
    started = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path / "job.sh")]
    )
    yield started
    stop([started])


def test_a_process_of_this_machine_is_ended(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    name = process_name(sleeper.pid)
    assert is_here(name)
    end(name, tmp_path)
    sleeper.wait(10)
    assert not process(name).active


@pytest.mark.parametrize("host", ["node-2", "a-node-2", "nodes"])
def test_a_process_of_a_machine_with_a_similar_name_is_not_ended(
    host: str, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scheduler.socket, "gethostname", lambda: "node")
    born = process_name(sleeper.pid).rpartition("-")[2]
    name = f"process-{host}-{sleeper.pid}-{born}"  # that machine has a process with the same number
    assert process(name).active, "it is assumed to run"
    assert not is_here(name)
    end(name, tmp_path)
    assert sleeper.poll() is None


def test_a_process_that_took_over_a_number_or_serves_another_folder_is_not_ended(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    name = f"process-{socket.gethostname()}-{sleeper.pid}-12"
    assert not process(name).active
    end(name, tmp_path)
    end(process_name(sleeper.pid), tmp_path / "copied")
    assert sleeper.poll() is None
