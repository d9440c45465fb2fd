"""The list of cells that a study asks for, cells whose jobs are in flight, and what a command imports."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pruning.config.compose import recorded_cell
from pruning.core import storage
from pruning.core.errors import InputError, OutOfReachError
from pruning.launcher.cell_state import CellState, StateName
from pruning.launcher.job import Job
from pruning.launcher.slurm import Slurm
from pruning.launcher.submission import QueuedCell, Submission
from pruning.models.handle import Resources
from pruning.runs.cell import Cell
from pruning.study import command
from pruning.study.command import Outcome, note_study, run_cells
from tests.helpers.jobs import job
from tests.helpers.launchers import submission, task


def cell(results: Path, key: str, study: str = "test") -> Cell:
    """A cell with the attributes that `note_study` uses."""
    return cast(Cell, SimpleNamespace(key=key, command=SimpleNamespace(results=results, study=study)))


def listed(results: Path, study: str = "test") -> list[str]:
    """The keys of a study's cells, read from its file."""
    return list(storage.read_json(results / "studies" / f"{study}.json")["cells"])


def test_a_study_keeps_what_it_asked_for_and_adds_what_is_new(tmp_path: Path) -> None:
    note_study([cell(tmp_path, "a"), cell(tmp_path, "b"), cell(tmp_path, "c", "other")])
    note_study([cell(tmp_path, "d"), cell(tmp_path, "a")])
    assert listed(tmp_path) == ["a", "b", "d"]
    assert listed(tmp_path, "other") == ["c"]


def test_two_commands_of_one_study_lose_no_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = storage.read_json

    def slow(path: Path) -> Any:
        data = read(path)
        time.sleep(0.02)  # without a lock, another thread reads data that are about to be replaced
        return data

    note_study([cell(tmp_path, "first")])
    monkeypatch.setattr(storage, "read_json", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: note_study([cell(tmp_path, f"cell-{n}")]), range(12)))
    assert sorted(listed(tmp_path)) == sorted(["first", *(f"cell-{n}" for n in range(12))])


@dataclass(frozen=True)
class Jobs(Slurm):
    """A launcher whose jobs are over as soon as somebody waits for them."""

    started: dict[str, Job] = field(default_factory=dict)

    def submit(self, results: Path, tasks: Sequence[QueuedCell], where: str) -> None:  # noqa: ARG002
        self.started.update({one.key: Job(one.key, one.config, where) for one in tasks})

    def settle(self, _: Path, keys: Sequence[str]) -> dict[str, CellState]:
        for key in keys:
            self.started.pop(key)()
        return {key: CellState(key, StateName.DONE) for key in keys}

    def states(self, _: Path, keys: Sequence[str]) -> dict[str, CellState]:
        return {key: CellState(key, StateName.RUNNING) for key in keys if key in self.started}


def cell_of(asked: Job) -> Cell:
    return recorded_cell(asked.config)


@pytest.fixture
def asked(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, Job]:
    """A cell, by the number of windows of its evaluation."""
    monkeypatch.chdir(tmp_path)
    words = ("k=1", "algo=one_shot", "calibration.length=24")
    return {
        count: job(model_folder, tmp_path / "results", *words, f"eval.samples={count}") for count in (2, 3)
    }


@pytest.fixture
def jobs(asked: dict[int, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """Another command has submitted the cell with two windows of evaluation."""
    launcher = Jobs(started={asked[2].key: asked[2]})
    record: Submission = submission(tmp_path / "results", task(asked[2].key), **{asked[2].key: "7"})
    record.tasks[asked[2].key] = QueuedCell(asked[2].key, asked[2].config, Resources(), 10)
    monkeypatch.setattr(command, "latest", lambda _: {asked[2].key: record})
    monkeypatch.setattr(command, "cell_states", launcher.states)
    monkeypatch.setattr(command, "settle", launcher.settle)
    return launcher


def test_beside_cells_in_flight_one_that_is_out_of_reach_is_left_out(
    jobs: Jobs, asked: dict[int, Job], model_folder: Path, tmp_path: Path
) -> None:
    words = ("k=3", "algo=exhaustive", "algo.limit=2", "calibration.length=24")
    far, outcome = cell_of(job(model_folder, tmp_path / "results", *words)), Outcome()
    run_cells([cell_of(asked[2]), far], jobs, outcome)
    assert isinstance(outcome.left_out[far.key], OutOfReachError)
    assert outcome.done[asked[2].key]["config"]["eval"]["samples"] == 2
    assert not jobs.started


def test_a_cell_in_flight_with_another_evaluation_is_refused(jobs: Jobs, asked: dict[int, Job]) -> None:
    with pytest.raises(InputError, match=rf"{asked[3].key} .*status cancel"):
        run_cells([cell_of(asked[3])], jobs, Outcome())


def test_what_a_job_left_undone_is_a_failure(jobs: Jobs, asked: dict[int, Job]) -> None:
    """A file that it reads has changed, or its evaluation failed after an earlier one was done."""
    asked[3]()
    outcome = Outcome()
    jobs.started[asked[2].key] = lambda: None  # type: ignore[assignment]
    run_cells([cell_of(asked[2])], jobs, outcome)
    assert outcome.failed[asked[2].key]["error"]["type"] == "failed"


SLOW = ("torch", "transformers", "mlflow", "scipy", "pandas")


@pytest.mark.parametrize(
    "module",
    [
        "pruning.study.command",
        "pruning.runs.prepare",
        "pruning.tracking.store",
        "pruning.config.app; pruning.config.app.composed(['k=2'])",
    ],
)
def test_checking_and_listing_cells_imports_no_large_library(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {SLOW} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ended.stdout.strip() == "[]", f"importing {module} imports {ended.stdout}"
