"""Ranks that users start: with torchrun, and as a job with several tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.helpers.jobs import journal

ROOT = Path(__file__).parents[2]
CELL = ("algo=greedy", "k=2", "scores.share=false", "calibration.samples=5", "calibration.length=700")


@pytest.mark.slow
def test_torchrun_runs_a_command_on_several_ranks_and_only_the_first_prints(
    launch: Command, model_folder: Path, tmp_path: Path
) -> None:
    plain = launch(*CELL)
    assert plain.status == 0, plain.err
    (key,) = [result["cell"] for result in plain.all()]
    small = [f"{name}={value}" for name, value in (
        ("model", "local"), ("model.path", model_folder), ("model.name", "tiny"), ("model.dtype", "float32"),
        ("eval.samples", 2), ("eval.length", 32), ("eval.items", 6), ("calibration.samples", 4),
        ("calibration.length", 24), ("tracker", "none"), ("paths.results", tmp_path / "ranks"),
    )]  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SUBMITIT")}
    done = subprocess.run(
        [*torchrun, str(ROOT / "launch.py"), *small, *CELL],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("blocks dropped") == 1
    assert done.stderr.count(f"cell 1 of 1: {key}") == 1
    _assert_same(journal(plain.results, key), journal(tmp_path / "ranks", key))


@pytest.mark.slow
def test_a_job_with_two_tasks_is_one_cell(launch: Command, tmp_path: Path) -> None:
    plain = launch(*CELL)
    (key,) = [result["cell"] for result in plain.all()]
    ranks = ("launcher=processes", "model.resources.ranks=2", "model.resources.gpus_per_rank=0")
    ended = launch(*CELL, *ranks, f"paths.results={tmp_path / 'ranks'}")
    assert ended.status == 0, ended.err + ended.out
    # A command of one cell uses bounds, so it computes some of the losses only; jobs compute all of them.
    losses = {tuple(line["dropped"]): line["loss"] for line in journal(tmp_path / "ranks", key)}
    for line in journal(plain.results, key):
        assert losses[tuple(line["dropped"])] == pytest.approx(line["loss"], rel=1e-9)
    logs = list((tmp_path / "ranks" / "jobs").glob("*/*_1_log.err"))
    assert len(logs) == 1  # of the second task


def _assert_same(expected: list[dict[str, object]], lines: list[dict[str, object]]) -> None:
    assert [line["dropped"] for line in lines] == [line["dropped"] for line in expected]
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in expected], rel=1e-9)
