"""Waiting for cells in flight, and the report on those that failed or are lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.core.errors import InputError
from pruning.core.storage import file_sha256
from pruning.launcher import scheduler, submit
from pruning.launcher.cell_state import CellState, StateName
from pruning.launcher.scheduler import Info
from pruning.launcher.slurm import Slurm
from pruning.launcher.submission import submissions
from tests.conftest import Command
from tests.helpers.launchers import result, submission, task


@pytest.mark.parametrize(
    ("state", "reason", "kind", "message"),
    [
        (StateName.FAILED, "LossError: it is NaN: 3 of 4", "LossError", "it is NaN: 3 of 4"),
        (StateName.FAILED, "its node died (SLURM: NODE_FAIL)", "failed", "its node died (SLURM: NODE_FAIL)"),
        (StateName.LOST, "it was never submitted: so", "lost", "it was never submitted: so"),
    ],
)
def test_a_failure_keeps_the_error_of_the_cell_or_the_reason_of_the_scheduler(
    state: StateName, reason: str, kind: str, message: str
) -> None:
    error = submit.failure(CellState("a", state, reason, log="launch.log"))["error"]
    assert error == {"type": kind, "message": message, "log": "launch.log"}


def test_only_unusual_reasons_to_wait_are_reported() -> None:
    waiting = [CellState(reason, StateName.PENDING, reason) for reason in ("Priority", "PartitionTimeLimit")]
    assert submit.summary(waiting) == "cells: 2 pending (some wait: PartitionTimeLimit)"
    assert submit.summary([*waiting[:1], CellState("a", StateName.DONE)]) == "cells: 1 pending, 1 done"


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Info] | InputError]:
    """The answers of SLURM, one per call; the last answer is repeated."""
    answers: list[dict[str, Info] | InputError] = []

    def ask(_: set[str], jobs: set[str]) -> dict[str, Info]:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, InputError):
            raise answer
        return {job: answer[job] for job in jobs if job in answer}

    monkeypatch.setattr(scheduler, "ask", ask)
    monkeypatch.setattr(submit, "POLL", (0.0, 0.0))
    monkeypatch.setattr(submit, "SETTLED", 0.0)
    return answers


RUNS = {"7_0": Info(active=True)}
DIED = {"7_0": Info(active=False, reason="it died (SLURM: FAILED)")}


def test_waiting_outlives_a_scheduler_that_restarts(
    tmp_path: Path, slurm: list[dict[str, Info] | InputError]
) -> None:
    submission(tmp_path, task("a"), a="7_0")
    slurm += [RUNS, InputError("squeue failed"), RUNS, DIED]
    assert submit.settle(Slurm(), tmp_path, ["a"])["a"].reason == "it died (SLURM: FAILED)"
    assert slurm == [DIED]


def test_a_job_that_is_gone_for_a_moment_is_not_given_up(
    tmp_path: Path, slurm: list[dict[str, Info] | InputError], monkeypatch: pytest.MonkeyPatch
) -> None:
    submission(tmp_path, task("a"), a="7_0")
    monkeypatch.setattr(submit, "SETTLED", 60.0)
    monkeypatch.setattr(submit.time, "sleep", lambda _: len(slurm) > 1 or result(tmp_path, "a"))
    slurm += [RUNS, {}, DIED, RUNS, {}]
    assert submit.settle(Slurm(), tmp_path, ["a"])["a"].state is StateName.DONE


def test_a_task_holds_the_digests_of_the_files_that_it_reads(
    launch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "settle", lambda *_: {})
    text = tmp_path / "text"
    text.write_text(" ".join(f"word{number}" for number in range(500)))
    lessons = tmp_path / "lessons"
    lessons.write_text(" ".join(f"lesson{number}" for number in range(9000, 9999)))
    evaluation = ("eval=local", f"eval.texts={{mine: {text}}}", "eval.window=32")
    heal = ("heal=full", "heal.source=file", f"heal.path={lessons}", "heal.length=32", "heal.batch_tokens=64")
    ended = launch("algo=one_shot", "k=1", *evaluation, *heal, "launcher=processes")
    (record,) = submissions(ended.results)
    assert [task.files for task in record.tasks] == [{str(text): file_sha256(text)}]
    assert [task.heal_files for task in record.tasks] == [{str(lessons): file_sha256(lessons)}]


def test_two_commands_do_not_submit_at_once(tmp_path: Path) -> None:
    from filelock import FileLock, Timeout

    with submit.submission_lock(tmp_path), pytest.raises(Timeout):
        FileLock(tmp_path / "jobs" / ".lock").acquire(timeout=0)
