"""Cells that other commands have submitted: what they were asked for may differ from what is asked for now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pruning.config.compose import recorded_cell
from pruning.core.errors import OutOfReachError
from pruning.launcher.cell_state import CellState, StateName
from pruning.launcher.job import Job
from pruning.launcher.submission import QueuedCell
from pruning.runs.cell import Cell
from pruning.study.grid import Outcome, run_cells
from tests.helpers.jobs import job


@dataclass
class Jobs:
    """A launcher whose jobs are over at once. `others` are what another command has submitted."""

    others: dict[str, Job]
    own: dict[str, Job]
    submitted: list[str] = field(default_factory=list)
    wait = True

    def step(self) -> bool:
        """One look at the queue: the other command's jobs end."""
        for run in self.others.values():
            run()
        self.others.clear()
        return False

    def finish(self) -> None:
        """Nothing is left open."""

    def submit(self, results: Path, tasks: Sequence[QueuedCell], directory: str) -> None:  # noqa: ARG002
        for task in tasks:
            self.submitted.append(task.key)
            self.own[task.key]()

    def states(self, _: Path, keys: Sequence[str] | None = None) -> dict[str, CellState]:
        return {
            key: CellState(key, StateName.RUNNING if key in self.others else StateName.DONE)
            for key in keys or ()
            if key in self.others or key in self.submitted or not self.others
        }


def cell_of(asked: Job) -> Cell:
    return recorded_cell(asked.config, asked.choices)


@pytest.fixture
def jobs(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """A cell that another command has submitted with two windows of evaluation, and is now asked for with three."""
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    two, three = (
        job(model_folder, results, "k=1", "algo=one_shot", f"eval.samples={count}", "calibration.length=24")
        for count in (2, 3)
    )
    assert two.key == three.key
    launcher = Jobs({two.key: two}, {three.key: three})
    for where in ("cell_state", "submit"):
        monkeypatch.setattr(f"pruning.launcher.{where}.cell_states", launcher.states)
    return launcher


def test_a_cell_in_flight_with_another_evaluation_is_submitted_again(jobs: Jobs) -> None:
    (key, asked), outcome = next(iter(jobs.own.items())), Outcome()
    run_cells([cell_of(asked)], jobs, outcome)
    assert jobs.submitted == [key]
    assert outcome.done[key]["config"]["eval"]["samples"] == 3


def test_beside_cells_in_flight_one_that_is_out_of_reach_is_left_out(
    jobs: Jobs, model_folder: Path, tmp_path: Path
) -> None:
    words = ("k=3", "algo=exhaustive", "algo.limit=2", "calibration.length=24")
    far, outcome = cell_of(job(model_folder, tmp_path / "results", *words)), Outcome()
    run_cells([cell_of(next(iter(jobs.own.values()))), far], jobs, outcome)
    assert isinstance(outcome.left_out[far.key], OutOfReachError)
    assert len(outcome.done) == 1
