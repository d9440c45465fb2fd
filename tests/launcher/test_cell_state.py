"""The state of a cell: from its own files first, then from the scheduler, then from its submission."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pruning.core.storage import file_sha256
from pruning.launcher import scheduler
from pruning.launcher.cell_state import StateName, _has, cell_states
from pruning.launcher.scheduler import Info, process_name
from tests.helpers.launchers import result, submission, task

EARLIER, LATER = "2020-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"
ERROR = {"type": "LossError", "message": "it is NaN", "log": "launch.log"}
WAITS, RUNS = Info(active=True, waiting=True, reason="Priority"), Info(active=True)
GONE = (StateName.LOST, "its job is gone, for no known reason")
DIED = Info(active=False, reason="its node died (SLURM: NODE_FAIL)")
FAILURE = {"status": "failed", "error": ERROR}


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> dict[str, Info]:
    """The states that SLURM reports, by job."""
    known: dict[str, Info] = {}
    monkeypatch.setattr(scheduler, "ask", lambda _, jobs: {j: known[j] for j in jobs if j in known})
    return known


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
        (FAILURE | {"environment": {"ended": LATER}}, DIED, (StateName.FAILED, "LossError: it is NaN")),
        (FAILURE | {"environment": {"ended": EARLIER}}, DIED, (StateName.FAILED, DIED.reason)),
        (FAILURE | {"environment": {"ended": EARLIER}}, None, GONE),
    ],
)  # fmt: skip
def test_the_cells_files_count_first_then_its_job(
    written: dict[str, Any] | None,
    queued: Info | None,
    state: tuple[StateName, str],
    tmp_path: Path,
    slurm: dict[str, Info],
) -> None:
    submission(tmp_path, task("a", evaluations=30), a="7_0")
    slurm |= {"7_0": queued} if queued else {}
    if written is not None:
        result(tmp_path, "a", **written)
    assert state_of(tmp_path) == state
    cell = cell_states(tmp_path)["a"]
    assert (cell.total, cell.job) == (30, "7_0")
    if state[1].startswith("LossError"):
        assert cell.log == str(tmp_path / "a" / "launch.log")


@pytest.mark.parametrize("healed", [False, True])
def test_a_result_on_an_earlier_state_of_a_file_is_not_what_was_asked_for(
    healed: bool, tmp_path: Path, slurm: dict[str, Info]
) -> None:
    text = tmp_path / "text"
    text.write_text("the new one")
    now = file_sha256(text)
    asked = {"eval": {"items": 2}} | ({"heal": {"class": "Full", "path": str(text)}} if healed else {})
    name = "heal_files" if healed else "files"
    submission(tmp_path, replace(task("a"), config=asked, **{name: {str(text): now}}), a="7_0")  # type: ignore[arg-type]
    slurm["7_0"] = WAITS
    for sha256, state in (("0" * 64, StateName.PENDING), (now, StateName.DONE)):
        parts: dict[str, Any] = (
            {"heal": {"file_sha256": sha256}} if healed else {"evaluation": {"files": {str(text): sha256}}}
        )
        result(tmp_path, "a", config=asked, **parts)
        assert state_of(tmp_path)[0] is state


def test_a_result_on_a_file_that_changed_while_its_job_waited_is_what_was_asked_for(
    tmp_path: Path, slurm: dict[str, Info]
) -> None:
    where = tmp_path / "where"
    where.mkdir()
    (where / "text").write_text("what the job read")
    submission(tmp_path, replace(task("a"), files={"text": "0" * 64}), a="7_0", where=str(where))
    result(tmp_path, "a", evaluation={"files": {"text": file_sha256(where / "text")}})
    assert state_of(tmp_path)[0] is StateName.DONE
    (where / "text").unlink()
    assert state_of(tmp_path)[0] is StateName.LOST


def test_a_cancelled_cell_has_failed(tmp_path: Path, slurm: dict[str, Info]) -> None:
    submission(tmp_path, task("a"), a="7_0").cancelled.touch()
    assert state_of(tmp_path) == (StateName.FAILED, "cancelled")


def test_a_cell_waits_while_its_command_lives_and_is_lost_with_it(tmp_path: Path) -> None:
    record = submission(tmp_path, task("a"))
    assert state_of(tmp_path)[0] is StateName.PENDING
    path = record.folder / "submission.json"
    other = f"{process_name(1).rpartition('-')[0]}-12"  # the number now belongs to another process
    path.write_text(path.read_text().replace(record.driver, other))
    assert state_of(tmp_path) == (StateName.LOST, "it was never submitted: its command was stopped")


def test_a_damaged_result_is_a_failure_and_stops_nothing(tmp_path: Path, slurm: dict[str, Info]) -> None:
    submission(tmp_path, task("a"), task("b"), a="7_0", b="7_1")
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
