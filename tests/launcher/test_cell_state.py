"""The state of a cell: from its own files first, then from the scheduler, then from its submission."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pruning.core.storage import file_sha256
from pruning.launcher import submission as submission_module
from pruning.launcher.cell_state import CellState, State, _has, cell_states
from pruning.launcher.submission import Info, process_name
from tests.helpers.launchers import result, submission, task

EARLIER, LATER = "2020-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"
ERROR = {"type": "LossError", "message": "it is NaN", "log": "launch.log"}


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> dict[str, Info]:
    """The states that SLURM reports, by job."""
    known: dict[str, Info] = {}
    monkeypatch.setattr(submission_module, "ask", lambda _, jobs: {j: known[j] for j in jobs if j in known})
    return known


def state_of(results: Path, key: str = "a") -> CellState:
    return cell_states(results)[key]


def test_a_result_is_believed_whatever_the_queue_says(tmp_path: Path, slurm: dict[str, Info]) -> None:
    submission(tmp_path, task("a"), a="7_0")
    slurm["7_0"] = Info(active=False, waiting=False, reason="PREEMPTED", seconds=3.0)
    result(tmp_path, "a")
    assert state_of(tmp_path).state is State.DONE


def test_a_result_of_another_evaluation_is_not_what_was_asked_for(
    tmp_path: Path, slurm: dict[str, Info]
) -> None:
    submission(tmp_path, task("a"), a="7_0")
    slurm["7_0"] = Info(active=True, waiting=True, reason="Priority", seconds=0.0)
    result(tmp_path, "a", config={"eval": {"items": 3}})
    assert (state_of(tmp_path).state, state_of(tmp_path).reason) == (State.PENDING, "Priority")


def test_a_result_on_an_earlier_state_of_a_file_is_not_what_was_asked_for(
    tmp_path: Path, slurm: dict[str, Info]
) -> None:
    text = tmp_path / "text"
    text.write_text("the new one")
    now, before = file_sha256(text), "0" * 64
    submission(tmp_path, replace(task("a"), files={str(text): now}), a="7_0")
    slurm["7_0"] = Info(active=True, waiting=True, reason="Priority", seconds=0.0)
    result(tmp_path, "a", evaluation={"files": {str(text): before}})
    assert state_of(tmp_path).state is State.PENDING
    result(tmp_path, "a", evaluation={"files": {str(text): now}})
    assert state_of(tmp_path).state is State.DONE


def test_a_result_on_a_file_that_changed_while_its_job_waited_is_what_was_asked_for(
    tmp_path: Path, slurm: dict[str, Info]
) -> None:
    where = tmp_path / "where"
    where.mkdir()
    (where / "text").write_text("what the job read")
    submission(tmp_path, replace(task("a"), files={"text": "0" * 64}), a="7_0", where=str(where))
    result(tmp_path, "a", evaluation={"files": {"text": file_sha256(where / "text")}})
    assert state_of(tmp_path).state is State.DONE
    (where / "text").unlink()
    assert state_of(tmp_path).state is State.LOST


def test_a_running_cell_has_its_running_time(tmp_path: Path, slurm: dict[str, Info]) -> None:
    submission(tmp_path, task("a", evaluations=30), a="7_0")
    slurm["7_0"] = Info(active=True, waiting=False, reason="", seconds=61.0)
    cell = state_of(tmp_path)
    assert (cell.state, cell.running, cell.total, cell.job) == (State.RUNNING, 61.0, 30, "7_0")


def test_a_failure_that_the_cell_recorded_is_its_reason(tmp_path: Path, slurm: dict[str, Info]) -> None:
    submission(tmp_path, task("a"), a="7_0")
    slurm["7_0"] = Info(active=False, waiting=False, reason="NonZeroExitCode (SLURM: FAILED)", seconds=1.0)
    result(tmp_path, "a", status="failed", error=ERROR, environment={"ended": LATER})
    cell = state_of(tmp_path)
    assert (cell.state, cell.reason) == (State.FAILED, "LossError: it is NaN")
    assert cell.log == str(tmp_path / "a" / "launch.log")


def test_a_failure_of_an_earlier_submission_does_not_count(tmp_path: Path, slurm: dict[str, Info]) -> None:
    submission(tmp_path, task("a"), a="7_0")
    result(tmp_path, "a", status="failed", error=ERROR, environment={"ended": EARLIER})
    assert state_of(tmp_path).state is State.LOST
    slurm["7_0"] = Info(active=False, waiting=False, reason="its node died (SLURM: NODE_FAIL)", seconds=1.0)
    assert (state_of(tmp_path).state, state_of(tmp_path).reason) == (State.FAILED, slurm["7_0"].reason)


def test_an_unknown_job_is_lost(tmp_path: Path, slurm: dict[str, Info]) -> None:
    record = submission(tmp_path, task("a"), a="7_0")
    assert state_of(tmp_path).state is State.LOST
    record.cancelled.touch()
    assert (state_of(tmp_path).state, state_of(tmp_path).reason) == (State.FAILED, "cancelled")


def test_a_cell_waits_while_its_command_lives_and_is_lost_with_it(tmp_path: Path) -> None:
    record = submission(tmp_path, task("a"))
    assert state_of(tmp_path).state is State.PENDING
    path = record.folder / "submission.json"
    born = process_name(1).rpartition("-")[0]
    path.write_text(
        path.read_text().replace(record.driver, f"{born}-12")
    )  # the number now belongs to another process
    assert state_of(tmp_path).state is State.LOST
    assert "never submitted" in state_of(tmp_path).reason


def test_a_damaged_result_is_a_failure_and_stops_nothing(tmp_path: Path, slurm: dict[str, Info]) -> None:
    submission(tmp_path, task("a"), task("b"), a="7_0", b="7_1")
    result(tmp_path, "b")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text('{"status": ')
    assert state_of(tmp_path).state is State.FAILED
    assert "is damaged" in state_of(tmp_path).reason
    assert state_of(tmp_path, "b").state is State.DONE


@pytest.mark.parametrize(
    ("recorded", "state"), [("0" * 64, State.PENDING), (None, State.DONE)], ids=["earlier text", "old record"]
)
def test_a_healing_on_an_earlier_text_is_not_what_was_asked_for(
    recorded: str | None, state: State, tmp_path: Path, slurm: dict[str, Info]
) -> None:
    text = tmp_path / "text"
    text.write_text("the new one")
    asked = {"eval": {"items": 2}, "heal": {"class": "Full", "source": "file", "path": str(text)}}
    submission(tmp_path, replace(task("a"), config=asked, heal_files={str(text): file_sha256(text)}), a="7_0")
    slurm["7_0"] = Info(active=True, waiting=True, reason="Priority", seconds=0.0)
    result(tmp_path, "a", config=asked, heal={} if recorded is None else {"file_sha256": recorded})
    assert state_of(tmp_path).state is state
    result(tmp_path, "a", config=asked, heal={"file_sha256": file_sha256(text)})
    assert state_of(tmp_path).state is State.DONE


@pytest.mark.parametrize("healed", [True, False])
def test_a_healed_model_that_is_not_measured_is_not_done_although_speed_is(healed: bool) -> None:
    asked = {"eval": {"class": "LocalFiles"}, "heal": {"class": "Lora"}}
    records = {"ppl/new": {"dense": "a", "pruned": "b"} | ({"healed": "c"} if healed else {})}
    settings = {"ppl/new": asked["eval"], "speed": asked["eval"]}
    evaluation = {"speed": {}, "settings": settings, "records": records}
    assert _has(cast(Any, {"config": asked, "heal": {}, "evaluation": evaluation}), asked) == healed
