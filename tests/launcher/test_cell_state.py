"""The state of a cell: from its own files, from the scheduler, from its submission; waiting for submitted cells."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

import pytest

from pruning.core.errors import InputError
from pruning.launcher import cell_state, scheduler
from pruning.launcher.cell_state import StateName, _has, cell_states, settle
from pruning.launcher.scheduler import Info
from pruning.launcher.submission import submission_lock
from tests.helpers.launchers import result, submission, task

EARLIER, LATER = "2020-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"
ERROR = {"type": "LossError", "message": "it is NaN: 3 of 4", "log": "launch.log"}
WAITS, RUNS = Info(active=True, waiting=True, reason="Priority"), Info(active=True)
GONE = (StateName.LOST, "* gone*")
DIED = Info(active=False, reason="its node died (SLURM: NODE_FAIL)")
FAILURE = {"status": "failed", "error": ERROR}

Answer = dict[str, Info] | InputError


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> list[Answer]:
    """The answers of SLURM, one per call; the last answer is repeated."""
    answers: list[Answer] = []

    def ask(_: set[str], jobs: set[str]) -> dict[str, Info]:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, InputError):
            raise answer
        return {job: answer[job] for job in jobs if job in answer}

    monkeypatch.setattr(scheduler, "ask", ask)
    monkeypatch.setattr(cell_state, "POLL", (0.0, 0.0))
    monkeypatch.setattr(cell_state, "SETTLED", 0.0)
    return answers


def state_of(results: Path, key: str = "a") -> tuple[StateName, str]:
    cell = cell_states(results)[key]
    return cell.state, cell.reason


@pytest.mark.parametrize(
    ("written", "queued", "state"),
    [
        ({}, DIED, (StateName.DONE, "")),  # a result counts, whatever the queue says
        ({"config": {"eval": {"items": 3}}}, WAITS, (StateName.PENDING, "Priority")),  # of another evaluation
        (None, RUNS, (StateName.RUNNING, "")),
        (None, DIED, (StateName.FAILED, DIED.reason)),
        (None, None, GONE),
        (FAILURE | {"environment": {"ended": LATER}}, DIED, (StateName.FAILED, "LossError: it is NaN: 3 of 4")),
        (FAILURE | {"environment": {"ended": EARLIER}}, DIED, (StateName.FAILED, DIED.reason)),
        (FAILURE | {"environment": {"ended": EARLIER}}, None, GONE),
    ],
)  # fmt: skip
def test_the_cells_files_count_first_then_its_job(
    written: dict[str, Any] | None,
    queued: Info | None,
    state: tuple[StateName, str],
    tmp_path: Path,
    slurm: list[Answer],
) -> None:
    submission(tmp_path, task("a", evaluations=30), a="7_0")
    slurm.append({"7_0": queued} if queued else {})
    if written is not None:
        result(tmp_path, "a", **written)
    cell = cell_states(tmp_path)["a"]
    assert (cell.state, fnmatch(cell.reason, state[1])) == (state[0], True), cell.reason
    assert (cell.total, cell.job) == (30, "7_0")
    if state[1].startswith("LossError"):
        assert cell.failure() == {"cell": "a", "error": ERROR | {"log": str(tmp_path / "a" / "launch.log")}}
    elif state[0] in (StateName.FAILED, StateName.LOST):
        assert cell.failure()["error"] == {"type": state[0], "message": cell.reason, "log": cell.log}


def test_the_job_of_a_named_cell_counts_although_an_earlier_one_has_written_a_result(
    tmp_path: Path, slurm: list[Answer]
) -> None:
    """A file that it reads has changed, so the cell was submitted again."""
    submission(tmp_path, task("a"), a="7_0")
    result(tmp_path, "a")
    slurm.append({"7_0": WAITS})
    assert cell_states(tmp_path, ["a"])["a"].state is StateName.PENDING
    assert state_of(tmp_path)[0] is StateName.DONE


def test_a_cancelled_cell_has_failed(tmp_path: Path, slurm: list[Answer]) -> None:
    submission(tmp_path, task("a"), a="7_0").cancelled.touch()
    slurm.append({})
    assert state_of(tmp_path) == (StateName.FAILED, "cancelled")


def test_a_cell_waits_while_its_command_submits_and_is_lost_with_it(tmp_path: Path) -> None:
    with submission_lock(tmp_path):
        submission(tmp_path, task("a"))
        assert state_of(tmp_path)[0] is StateName.PENDING
    state, reason = state_of(tmp_path)
    assert (state, "submitted" in reason) == (StateName.LOST, True)


def test_a_damaged_result_is_a_failure_and_stops_nothing(tmp_path: Path, slurm: list[Answer]) -> None:
    submission(tmp_path, task("a"), task("b"), a="7_0", b="7_1")
    slurm.append({})
    result(tmp_path, "b")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text('{"status": ')
    state, reason = state_of(tmp_path)
    assert (state, "result.json" in reason) == (StateName.FAILED, True)
    assert state_of(tmp_path, "b")[0] is StateName.DONE


@pytest.mark.parametrize("healed", [True, False])
def test_a_healed_model_that_is_not_measured_is_not_done_although_speed_is(healed: bool) -> None:
    asked = {"eval": {"class": "LocalFiles"}, "heal": {"class": "Lora"}}
    records = {"ppl/new": {"dense": "a", "pruned": "b"} | ({"healed": "c"} if healed else {})}
    settings = {"ppl/new": asked["eval"], "speed": asked["eval"]}
    evaluation = {"speed": {}, "settings": settings, "records": records}
    assert _has(cast(Any, {"config": asked, "heal": {}, "evaluation": evaluation}), asked) == healed


def test_waiting_outlives_a_scheduler_that_restarts(tmp_path: Path, slurm: list[Answer]) -> None:
    submission(tmp_path, task("a"), a="7_0")
    slurm += [{"7_0": RUNS}, InputError("squeue failed"), {"7_0": RUNS}, {"7_0": DIED}]
    assert settle(tmp_path, ["a"])["a"].reason == DIED.reason
    assert slurm == [{"7_0": DIED}]


def test_a_job_that_is_gone_for_a_moment_is_not_given_up(
    tmp_path: Path, slurm: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    submission(tmp_path, task("a"), a="7_0")
    monkeypatch.setattr(cell_state, "SETTLED", 60.0)
    monkeypatch.setattr(cell_state.time, "sleep", lambda _: len(slurm) > 1 or result(tmp_path, "a"))
    slurm += [{"7_0": RUNS}, {}, {"7_0": DIED}, {"7_0": RUNS}, {}]
    assert settle(tmp_path, ["a"])["a"].state is StateName.DONE
