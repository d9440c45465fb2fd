"""What became of a cell: its own files first, then the scheduler, then the record of its submission."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.launcher import slurm_queue
from pruning.launcher.cell_state import CellState, State, cell_states
from pruning.launcher.local_process import process_name
from pruning.launcher.slurm_queue import Info
from tests.helpers.launchers import result, submission, task

EARLIER, LATER = "2020-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"
ERROR = {"type": "LossError", "message": "it is NaN", "log": "launch.log"}


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> dict[str, Info]:
    """What SLURM knows, by job."""
    known: dict[str, Info] = {}
    monkeypatch.setattr(slurm_queue, "ask", lambda _, jobs: {j: known[j] for j in jobs if j in known})
    return known


def standing(results: Path, key: str = "a") -> CellState:
    return cell_states(results)[key]


def test_a_result_is_believed_whatever_the_queue_says(tmp_path: Path, slurm: dict[str, Info]) -> None:
    submission(tmp_path, task("a"), a="7_0")
    slurm["7_0"] = Info(active=False, waiting=False, reason="PREEMPTED", seconds=3.0)
    result(tmp_path, "a")
    assert standing(tmp_path).state is State.DONE


def test_a_result_of_another_evaluation_is_not_what_was_asked_for(
    tmp_path: Path, slurm: dict[str, Info]
) -> None:
    submission(tmp_path, task("a"), a="7_0")
    slurm["7_0"] = Info(active=True, waiting=True, reason="Priority", seconds=0.0)
    result(tmp_path, "a", config={"eval": {"items": 3}})
    assert (standing(tmp_path).state, standing(tmp_path).reason) == (State.PENDING, "Priority")


def test_what_runs_says_since_when(tmp_path: Path, slurm: dict[str, Info]) -> None:
    submission(tmp_path, task("a", evaluations=30), a="7_0")
    slurm["7_0"] = Info(active=True, waiting=False, reason="", seconds=61.0)
    found = standing(tmp_path)
    assert (found.state, found.running, found.total, found.job) == (State.RUNNING, 61.0, 30, "7_0")


def test_a_failure_that_the_cell_recorded_is_its_reason(tmp_path: Path, slurm: dict[str, Info]) -> None:
    submission(tmp_path, task("a"), a="7_0")
    slurm["7_0"] = Info(active=False, waiting=False, reason="NonZeroExitCode (SLURM: FAILED)", seconds=1.0)
    result(tmp_path, "a", status="failed", error=ERROR, environment={"ended": LATER})
    found = standing(tmp_path)
    assert (found.state, found.reason) == (State.FAILED, "LossError: it is NaN")
    assert found.log == str(tmp_path / "a" / "launch.log")


def test_a_failure_of_an_earlier_submission_is_none_of_this_one(
    tmp_path: Path, slurm: dict[str, Info]
) -> None:
    submission(tmp_path, task("a"), a="7_0")
    result(tmp_path, "a", status="failed", error=ERROR, environment={"ended": EARLIER})
    assert standing(tmp_path).state is State.LOST
    slurm["7_0"] = Info(active=False, waiting=False, reason="its node died (SLURM: NODE_FAIL)", seconds=1.0)
    assert (standing(tmp_path).state, standing(tmp_path).reason) == (State.FAILED, slurm["7_0"].reason)


def test_a_job_that_nobody_knows_is_lost(tmp_path: Path, slurm: dict[str, Info]) -> None:
    record = submission(tmp_path, task("a"), a="7_0")
    assert standing(tmp_path).state is State.LOST
    record.cancelled.touch()
    assert (standing(tmp_path).state, standing(tmp_path).reason) == (State.FAILED, "cancelled")


def test_a_cell_waits_while_its_command_lives_and_is_lost_with_it(tmp_path: Path) -> None:
    record = submission(tmp_path, task("a"))
    assert standing(tmp_path).state is State.PENDING
    path = record.folder / "submission.json"
    born = process_name(1).rpartition("-")[0]
    path.write_text(
        path.read_text().replace(record.driver, f"{born}-12")
    )  # its number is another process's now
    assert standing(tmp_path).state is State.LOST
    assert "never submitted" in standing(tmp_path).reason


def test_a_damaged_result_is_a_failure_and_stops_nothing(tmp_path: Path, slurm: dict[str, Info]) -> None:
    submission(tmp_path, task("a"), task("b"), a="7_0", b="7_1")
    result(tmp_path, "b")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text('{"status": ')
    assert standing(tmp_path).state is State.FAILED
    assert "is damaged" in standing(tmp_path).reason
    assert standing(tmp_path, "b").state is State.DONE
