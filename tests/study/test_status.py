"""`depth-pruning status`, with fake SLURM commands whose answers each test chooses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from pruning.core.errors import InputError
from pruning.core.records import write_study
from pruning.launcher.cell_state import CellState, StateName, all_states, cancel, cell_states
from pruning.study.status import advance, run_status, status_table
from tests.helpers.launchers import commands, result, submission, task

BROKEN = {"type": "LossError", "message": "it is NaN", "log": "launch.log"}
LATER = "2999-01-01T00:00:00+00:00"


def journal(folder: Path, *scores: tuple[list[int], float]) -> None:
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"dropped": dropped, "loss": 1.0, "samples": [1.0], "seconds": seconds})
        for dropped, seconds in scores
    ]
    (folder / "trace.jsonl").write_text("\n".join(lines) + "\n")


def test_progress_counts_masks_once_and_time_by_paid_evaluations(tmp_path: Path) -> None:
    journal(tmp_path / "a", ([], 9.0), ([1], 2.0), ([1], 4.0), ([2], 0.0), ([3], 1.0))
    assert advance(tmp_path / "a", 10) == (3, pytest.approx(7 * (9 + 2 + 4 + 1) / 4)), (
        "the dense model does not count"
    )
    assert advance(tmp_path / "a", 2) == (2, 0.0)
    assert advance(tmp_path / "a", 0) == (3, None)
    assert advance(tmp_path, 10) == (0, None)
    with (tmp_path / "a" / "trace.jsonl").open("a") as stream:
        stream.write('{"dropped": [4]\n')
    assert advance(tmp_path / "a", 9)[0] == 3


def shown(results: Path, cells: dict[str, CellState]) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(status_table(results, cells))
    return capture.get()


def test_the_table_begins_with_what_went_wrong(tmp_path: Path) -> None:
    journal(tmp_path / "run", ([1], 30.0))
    cells = {
        "done": CellState("done", StateName.DONE),
        "wait": CellState("wait", StateName.PENDING, "Priority"),
        "run": CellState("run", StateName.RUNNING, job="7_1", total=3),
        "bad": CellState("bad", StateName.FAILED, "LossError: it is NaN\nand more", log="/logs/bad"),
    }
    lines = [line.strip() for line in shown(tmp_path, cells).strip().splitlines()]
    names = [line.split()[0] for line in lines if line.split() and line.split()[0] in cells]
    assert names == ["bad", "run", "wait", "done"]
    assert "LossError: it is NaN: /logs/bad" in "\n".join(lines)
    running = next(line for line in lines if line.startswith("run"))
    assert running.split()[1:5] == ["running", "1/3", "01:00", "7_1"]
    assert "4 cells: 1 pending, 1 running, 1 done, 1 failed" in lines[-1]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "queue").touch()
    scripts = {"squeue": "cat $(dirname $0)/../queue", "sacct": "", "scancel": ""}
    return commands(tmp_path, monkeypatch, scripts)


def test_cancelling_asks_once_for_each_submission_that_has_cells_in_flight(
    tmp_path: Path, slurm: Path
) -> None:
    first = submission(tmp_path, task("a"), task("b"), a="7_0", b="7_1")
    second = submission(tmp_path, task("c"), c="8")
    result(tmp_path, "c")
    (tmp_path / "queue").write_text("7_0|RUNNING|None\n7_1|PENDING|Priority\n")
    assert cancel(tmp_path) == 2
    assert [line for line in slurm.read_text().splitlines() if "scancel" in line] == [
        f"scancel --quiet --name={first.name}"
    ]
    (tmp_path / "queue").write_text("")
    assert {key: cell.state.value for key, cell in cell_states(tmp_path).items()} == {
        "a": "failed", "b": "failed", "c": "done",
    }  # fmt: skip
    assert not second.cancelled.exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [(["nowhere"], "nowhere"), (["cancl", "."], "cancl"), (["."], "paths.results"), (["k", "=", "3"], "k=3")],
)
def test_invalid_words_are_refused(
    words: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=named):
        run_status(words)


def test_cells_that_a_command_computes_itself_are_shown_too(tmp_path: Path) -> None:
    write_study(tmp_path, "mine", ["done", "bad", "runs", "waits"])
    result(tmp_path, "done")
    result(tmp_path, "bad", status="failed", error=BROKEN, environment={"ended": LATER})
    (tmp_path / "runs").mkdir()
    ended = ["done", "failed", "lost", "lost"]
    assert [cell.state.value for cell in all_states(tmp_path).values()] == ended
    with FileLock(tmp_path / "runs" / ".lock"):
        states = all_states(tmp_path)
    assert [cell.state.value for cell in states.values()] == ["done", "failed", "running", "pending"]
    assert "it is NaN" in shown(tmp_path, states)
    assert [cell.state.value for cell in all_states(tmp_path).values()] == ended


def test_the_exit_status_is_1_if_a_cell_failed(
    tmp_path: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submission(tmp_path, task("a"), a="7_0")
    for queued, code in (("7_0|RUNNING|None\n", 0), ("7_0|NODE_FAIL|None\n", 1)):
        (tmp_path / "queue").write_text(queued)
        assert run_status([str(tmp_path)]) == code
    assert "NODE_FAIL" in capsys.readouterr().out
