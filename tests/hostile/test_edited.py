"""Records that were changed by hand are named and not believed: results, measurements, terms, healings, trials."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning.core import storage
from pruning.core.errors import DamagedError
from pruning.core.mask import Mask
from pruning.core.records import read_result
from pruning.healing.loop import read_record
from pruning.runs import measurements
from tests.conftest import Command
from tests.helpers.damage import edit_json

SEARCH = ("k=2", "algo=greedy")
HEAL = (
    *("heal=full", "heal.tokens=2048", "heal.length=32", "heal.batch_tokens=256", "heal.heldout=4"),
    "heal.eval_every=4",
)


def refused(launch: Command, path: Path, *words: str) -> None:
    ended = launch(*words)
    assert ended.status != 0, ended.out
    assert path.name in ended.out + ended.err


@pytest.fixture
def cell(launch: Command) -> Path:
    """The folder of a finished cell."""
    (path,) = launch(*SEARCH).results.glob("*/result.json")
    return path.parent


def test_an_edited_result_is_not_shown(launch: Command, cell: Path) -> None:
    whole = (path := cell / "result.json").read_text()
    changes: list[Callable[[Any], object]] = [
        lambda data: data["mask"].update(dropped=[0, 1]),
        lambda data: data["calibration"].update(loss=1.5),
        lambda data: data["evaluation"]["pruned"].update({"ppl/heldout": 3.25}),
        lambda data: data["search"].update(evaluations_paid=1),
    ]
    for change in changes:
        path.write_text(whole)
        edit_json(path, change)
        with pytest.raises(DamagedError, match=path.name):
            read_result(cell)
    refused(launch, path, *SEARCH)


@pytest.mark.parametrize("what", ["metrics", "mask", "terms"])
def test_an_edited_measurement_is_not_taken_by_another_cell(launch: Command, cell: Path, what: str) -> None:
    record = storage.read_json(cell / "result.json")["evaluation"]["records"]["ppl/heldout"]["pruned"]
    path = cell.parent / record
    if what == "terms":
        path = path.with_name(f"{path.stem}.terms.json")
        edit_json(path, lambda data: data["losses"].__setitem__(0, 0.5))
        with pytest.raises(DamagedError, match=path.name):
            storage.read_json(path)
        return
    if what == "metrics":
        edit_json(path, lambda data: data["metrics"].update({"ppl/heldout": 2.5}))
    else:
        data = json.loads(path.read_text())
        del data[storage.SEAL]
        data["mask"]["dropped"] = [0, 1]
        storage.write_record(path, data)
    refused(launch, path, "k=2", "algo=beam")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_measurement_that_is_not_a_number_is_not_read(value: float, tmp_path: Path) -> None:
    path = tmp_path / "0.json"
    path.write_text(json.dumps({"mask": Mask(6, (1,)).to_json(), "metrics": {"ppl/x": value}, "how": {}}))
    with pytest.raises(DamagedError, match=r"0\.json.*ppl/x"):
        measurements._read(path, Mask(6, (1,)))


@pytest.mark.slow
def test_an_edited_healing_or_trial_is_not_continued(launch: Command) -> None:
    ended = launch(*SEARCH, *HEAL)
    assert ended.status == 0, ended.err
    folder = ended.results / ended.result()["cell"]
    (trials,) = folder.glob("healed/rates-*.jsonl")
    lines = [json.loads(line) for line in trials.read_text().splitlines()]
    lines[-1]["heldout_loss"] = 0.1
    kept = trials.read_text()
    trials.write_text("".join(json.dumps(line) + "\n" for line in lines))
    refused(launch, trials, *SEARCH, *HEAL, "eval.samples=3")
    trials.write_text(kept)
    record = folder / ended.result()["heal"]["folder"] / "heal.json"
    edit_json(record, lambda data: data["curve"].update(heldout_after=0.1))
    refused(launch, record, *SEARCH, *HEAL, "eval.samples=3")


def test_a_record_without_a_seal_is_read(tmp_path: Path) -> None:
    storage.write_json(path := tmp_path / "plain.json", {"a": 1})
    assert storage.read_json(path) == {"a": 1}
    storage.write_record(path, {"b": 0.1, "ä": [1e-300, None]})
    assert storage.read_json(path) == {"b": 0.1, "ä": [1e-300, None]}


def test_a_journal_of_nobody_knows_whom_is_not_continued(launch: Command, cell: Path) -> None:
    (cell / "result.json").unlink()
    shutil.rmtree(cell.parent / "scores")
    refused(launch, cell / "trace.jsonl", *SEARCH)


def test_a_recorded_path_stays_in_the_folder(cell: Path) -> None:
    path = cell / "result.json"
    for where in ("/etc/passwd", "../outside.json", "evaluation/../../outside.json", 3, ""):
        edits: list[Callable[[Any], object]] = [
            lambda data, where=where: data["evaluation"]["records"]["ppl/heldout"].update(pruned=where),
            lambda data, where=where: data.update(heal={"folder": where}),
        ]
        for edit in edits:
            edit(data := storage.read_json(path))
            storage.write_record(path.with_name("other") / path.name, data)
            with pytest.raises(DamagedError, match=re.escape(repr(where))):
                read_result(path.with_name("other"))


def test_a_record_of_healing_names_its_own_folder(tmp_path: Path) -> None:
    for folder in ("../../outside", "healed/other", "/healed/key", "healed/../key"):
        storage.write_record(tmp_path / "key" / "heal.json", {"folder": folder})
        with pytest.raises(DamagedError, match=r"heal\.json"):
            read_record(tmp_path / "key")


def test_folders_that_are_links_are_not_written_to(launch: Command, cell: Path, tmp_path: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    for link in (cell.parent / "evaluation", cell.parent / "studies", cell, cell / "healed"):
        moved = link.rename(tmp_path / "moved") if link.is_dir() else None
        link.symlink_to(outside)
        again = launch(*SEARCH, "eval.samples=3")
        assert again.status != 0
        assert link.name in again.out + again.err
        assert list(outside.iterdir()) == []
        link.unlink()
        if moved is not None:
            moved.rename(link)


def test_numbers_of_odd_files_are_damage(tmp_path: Path) -> None:
    for content in ("[" * 100_000, "9" * 5_000, "\ud800", "{"):
        (tmp_path / "odd.json").write_text(content, encoding="utf-8", errors="surrogatepass")
        with pytest.raises(DamagedError, match=r"odd\.json"):
            storage.read_json(tmp_path / "odd.json")
