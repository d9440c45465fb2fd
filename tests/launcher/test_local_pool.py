"""Cells as processes of this machine: a bounded number, with separate GPUs, and the results of a single process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pruning.core.errors import InputError
from pruning.launcher.local import LocalPool
from pruning.launcher.submission import process, process_name, submissions
from pruning.models.model import Resources
from tests.conftest import Command
from tests.helpers.launchers import sleeping_cells, stop, submission, task

GRID = ("-m", "algo=one_shot,greedy", "k=2", "scores.share=false")


def journals(results: Path) -> dict[str, list[Any]]:
    """The masks, losses and terms of each cell, in order."""
    read = {path.parent.name: path.read_text().splitlines() for path in results.glob("*/trace.jsonl")}
    return {
        key: [(s["dropped"], s["loss"], s["samples"]) for s in map(json.loads, lines)]
        for key, lines in read.items()
    }


@pytest.mark.slow
def test_a_grid_in_processes_equals_one_in_this_process(launch: Command, tmp_path: Path) -> None:
    plain = launch(*GRID, f"paths.results={tmp_path / 'plain'}")
    assert plain.status == 0
    ended = launch(*GRID, "launcher=processes", "launcher.parallel=2")
    assert ended.status == 0, ended.err
    assert journals(ended.results) == journals(tmp_path / "plain")
    masks = {r["cell"]: r["mask"] for r in ended.all()}
    assert masks == {
        path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("plain/*/mask.json")
    }
    (record,) = submissions(ended.results)
    assert len(record.jobs) == 2
    assert record.complete
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


def test_each_cell_gets_separate_gpus(gpus: None) -> None:
    launcher, two = LocalPool(), Resources(ranks=2, gpus_per_rank=1)
    assert launcher._free_gpus(two, {}) == ["GPU-a", "GPU-b"]
    used = {"one": ["GPU-a", "GPU-b"]}
    assert launcher._free_gpus(two, used) is None
    assert launcher._free_gpus(Resources(), used) == ["GPU-c"]
    assert launcher._free_gpus(Resources(), {**used, "two": ["GPU-c"]}) is None
    assert LocalPool(parallel=5)._free_gpus(Resources(), {}) == ["GPU-a"]


def test_the_bound_holds_if_gpus_are_left(gpus: None) -> None:
    assert LocalPool(parallel=1)._free_gpus(Resources(), {"one": ["GPU-a"]}) is None


def test_a_machine_without_gpus_runs_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert LocalPool()._free_gpus(Resources(), {}) == []
    assert LocalPool()._free_gpus(Resources(), {"one": [], "two": []}) is None


@pytest.mark.parametrize(
    ("launcher", "asked", "message"),
    [
        (LocalPool(wait=False), Resources(), "launcher.wait=false needs launcher=slurm"),
        (LocalPool(parallel=0), Resources(), "launcher.parallel=0 runs nothing"),
        (LocalPool(), Resources(nodes=2), "nodes=2 of tiny needs launcher=slurm"),
        (LocalPool(), Resources(ranks=2, gpus_per_rank=2), "tiny asks for 4 GPUs .* and 3 are visible"),
        (LocalPool(order="no"), Resources(), "unknown launcher.order 'no'"),
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
    assert list(launcher._pool.record.devices.values()) == [["GPU-b"], ["GPU-c"]]  # type: ignore[union-attr]


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
