"""`experiment=tasks` end to end on a tiny model: cells, cross table, router, files, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.storage import read_json
from pruning.routing import fitted_router
from pruning.routing.set_scores import POLICIES, ItemScores
from pruning.study import route_command
from tests.conftest import Command, Ended
from tests.helpers.task_files import items_of, task_folder

SMALL = ("experiment=tasks", "k=2", "calibration.samples=8", "calibration.heldout=12", "tasks.embedded=false")


def record_of(ended: Ended) -> tuple[Path, dict[str, Any]]:
    """The one routing study of a results folder: its folder and its record."""
    (path,) = (ended.results / fitted_router.FOLDER).glob(f"*/{fitted_router.RECORD}")
    return path.parent, read_json(path)


def check_record(folder: Path, record: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """The numbers of a record follow from the files beside it, and its sets are those of the cells."""
    found = {Path(result["calibration"]["source"]).stem: result["mask"] for result in results}
    assert record["sets"] == found
    for number, task in enumerate(record["sets"], start=1):
        scores = ItemScores(**fitted_router.read_arrays(folder / "scores" / f"{task}-heldout.npz"))
        cross = record["cross"][task]
        assert list(cross) == ["dense", *record["sets"]]
        assert scores.sums.shape[0] == len(cross)
        assert scores.count == record["items"][task]["heldout"]["items"] == 12
        for row, entry in enumerate(cross.values()):
            assert entry["accuracy"] == pytest.approx(scores.hits[row].mean())
            gaps = scores.hits[row] - scores.hits[number]
            assert entry["accuracy_to_own"]["value"] == pytest.approx(gaps.mean())
            assert entry["accuracy_to_own"]["error"] == pytest.approx(gaps.std(ddof=1) / np.sqrt(12))


@pytest.mark.slow
def test_a_folder_of_tasks_gives_sets_a_cross_table_and_a_router(
    launch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = (*SMALL, f"tasks.folder={task_folder(tmp_path / 'tasks')}")
    ended = launch(*words, calibrated=False)
    assert ended.status == 0, ended.err
    folder, record = record_of(ended)
    check_record(folder, record, ended.all())
    policies = record["policies"]
    assert list(policies) == list(POLICIES)
    accuracy = {name: policy["accuracy"]["value"] for name, policy in policies.items()}
    best = max(accuracy[name] for name in ("static", "hindsight", "own", "router", "random", "likeliest"))
    assert accuracy["oracle"] >= best
    assert accuracy["hindsight"] >= accuracy["static"]
    assert sum(record["router"]["chosen"]["tools"].values()) == 12
    for shown in ("wording", "gain over static", str(folder)):
        assert shown in ended.out

    written = (folder / fitted_router.RECORD).stat().st_mtime_ns
    again = launch(*words, calibrated=False)
    assert (folder / fitted_router.RECORD).stat().st_mtime_ns == written, "nothing is computed again"
    assert str(folder) in again.out
    other = launch(*words, "tasks.target=margin", calibrated=False)
    assert not re.search(r"task \d of 2", other.err), "another router needs no new scores"
    assert record_of(other)[1]["router"]["target"] == "margin"
    assert fitted_router.read_router(folder)[0].target == "margin"
    check_command(folder, record, monkeypatch, capfd)


def check_command(folder: Path, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """`depth-pruning route` chooses a set, says why and generates."""
    words = ("Which of these tools is it?", "question=true", "max_new_tokens=4")
    monkeypatch.setattr("sys.argv", ["route", str(folder), *words])
    capfd.readouterr()
    route_command.main()
    out = capfd.readouterr().out
    chosen, _, rest = out.partition(": 2 of 6 blocks ")
    assert chosen in record["sets"]
    drops = rest.splitlines()[0].rpartition(": ")[2]
    assert drops == " ".join(Mask.from_json(record["sets"][chosen]).names())
    assert f"-> {chosen}" in out
    assert all(name in out for name in record["sets"])


def test_sublayers_have_sets_too(launch: Command, tmp_path: Path) -> None:
    tasks = f"tasks.folder={task_folder(tmp_path / 'tasks')}"
    words = (*SMALL, "unit=sublayer", "tasks.rewording=null", tasks)
    ended = launch(*words, calibrated=False)
    assert ended.status == 0, ended.err
    folder, record = record_of(ended)
    assert {mask["unit"] for mask in record["sets"].values()} == {"sublayer"}
    assert "oracle" not in record
    assert "wording" not in ended.out

    assert launch(*words, "study=second", calibrated=False).status == 0
    assert fitted_router.read_router(folder)[0].blocks == record["router"]["blocks"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["tasks.folder={empty}"], r"\.jsonl or \.json"),
        (["tasks.folder={one}"], r"animals\.jsonl, .*tasks\.embedded=true"),
        (["tasks.folder={lacking}"], "'question'"),
        (["tasks.folder={shared}"], "task animals .* task again:|task again .* task animals:"),
        (["tasks.folder={listed}", "tasks.embedded=false"], "animals and list"),
        (["tasks.folder={two}", "calibration=commonsense"], "calibration=task_items"),
        (["tasks.folder={two}", "compensation=magnitude"], "compensation=none"),
        (["tasks.folder={two}", "launcher=processes"], "launcher=local"),
        (["tasks.folder={two}", "calibration.samples=13"], "task animals .* 24 .* 13 "),
        ([], r"tasks\.folder .*tasks\.folder=DIR"),
    ],
)
def test_what_cannot_be_crossed_is_refused_before_a_search(
    launch: Command, tmp_path: Path, words: list[str], named: str
) -> None:
    both, one = ("animals", "tools"), ("animals",)
    made = {"two": both, "lacking": both, "one": one, "shared": one, "listed": one, "empty": ()}
    places = {name: task_folder(tmp_path / name, tasks=tasks) for name, tasks in made.items()}
    lines = [json.dumps(item) + "\n" for item in reversed(items_of("animals", 23))]
    (places["shared"] / "again.jsonl").write_text("".join(lines))
    (places["listed"] / "list.json").write_text(json.dumps(items_of("animals", 24)))
    (places["lacking"] / "third.jsonl").write_text('{"choices": ["a", "b"], "answer": 0}\n')
    given = [word.format(**places) for word in words]
    chosen = {word.partition("=")[0] for word in given}
    small = [word for word in SMALL if word.partition("=")[0] not in chosen]
    if "calibration" in chosen:
        small.remove("calibration.heldout=12")
    ended = launch(*small, *given, calibrated=False)
    assert ended.status == 2
    assert re.search(named, ended.err)
    assert not list(ended.results.glob("*/result.json"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["tasks"], "1 words"),
        (["absent", "Why?"], "absent"),
        (["absent", "Why?", "tokens=3"], "'tokens'"),
        (["absent", "Why?", "max_new_tokens=many"], "max_new_tokens=many"),
        (["absent", "Why?", "question=yes"], "question=yes"),
    ],
)
def test_the_command_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["route", *words])
    with pytest.raises(InputError, match=named):
        route_command.main()
