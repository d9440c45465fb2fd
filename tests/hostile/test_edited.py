"""Records that were changed by hand are named and not believed: results, measurements, terms, healings, trials."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pruning.core import storage
from pruning.core.errors import DamagedError
from pruning.core.mask import Mask
from pruning.core.records import read_result
from pruning.core.storage import file_sha256
from pruning.healing.healed_files import read_record, read_weights
from pruning.runs import measurements
from tests.conftest import Command

SEARCH = ("k=2", "algo=greedy")
HEAL = (
    *("heal=full", "heal.tokens=2048", "heal.length=32", "heal.batch_tokens=256", "heal.heldout=4"),
    *("heal.eval_every=4", "heal.checkpoint_every=8"),
)


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file as a person would, and leave the rest as it is."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def refused(launch: Command, path: Path, *words: str) -> None:
    ended = launch(*words)
    assert ended.status != 0, ended.out
    assert str(path.name) in ended.out + ended.err


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["mask"].update(dropped=[0, 1]),
        lambda data: data["calibration"].update(loss=1.5),
        lambda data: data["evaluation"]["pruned"].update({"ppl/heldout": 3.25}),
        lambda data: data["search"].update(evaluations_paid=1),
    ],
)
def test_an_edited_result_is_not_shown(launch: Command, change: Callable[[Any], object]) -> None:
    ended = launch(*SEARCH)
    edit(path := ended.results / ended.result()["cell"] / "result.json", change)
    refused(launch, path, *SEARCH)


@pytest.mark.parametrize("what", ["metrics", "mask", "terms"])
def test_an_edited_measurement_is_not_taken_by_another_cell(launch: Command, what: str) -> None:
    ended = launch(*SEARCH)
    pruned = ended.result()["evaluation"]["records"]["ppl/heldout"]["pruned"]
    path = ended.results / pruned
    if what == "metrics":
        edit(path, lambda data: data["metrics"].update({"ppl/heldout": 2.5}))
    elif what == "mask":
        data = json.loads(path.read_text())
        del data[storage.SEAL]
        data["mask"]["dropped"] = [0, 1]
        storage.write_record(path, data)
    else:
        path = path.with_name(f"{path.stem}.terms.json")
        edit(path, lambda data: data["losses"].__setitem__(0, 0.5))
        with pytest.raises(DamagedError, match=path.name):
            storage.read_json(path)
        return
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
    edit(record, lambda data: data["curve"].update(heldout_after=0.1))
    refused(launch, record, *SEARCH, *HEAL, "eval.samples=3")


def test_a_record_without_a_seal_is_read(tmp_path: Path) -> None:
    storage.write_json(path := tmp_path / "plain.json", {"a": 1})
    assert storage.read_json(path) == {"a": 1}
    storage.write_record(path, {"b": 0.1, "ä": [1e-300, None]})
    assert storage.read_json(path) == {"b": 0.1, "ä": [1e-300, None]}


def test_a_journal_of_nobody_knows_whom_is_not_continued(launch: Command) -> None:
    ended = launch(*SEARCH)
    folder = ended.results / ended.result()["cell"]
    (folder / "result.json").unlink()
    shutil.rmtree(ended.results / "scores")
    refused(launch, folder / "trace.jsonl", *SEARCH)


@pytest.mark.parametrize("where", ["/etc/passwd", "../outside.json", "evaluation/../../outside.json", 3, ""])
@pytest.mark.parametrize("what", ["records", "heal"])
def test_a_recorded_path_stays_in_the_folder(launch: Command, what: str, where: Any) -> None:
    ended = launch(*SEARCH)
    path = ended.results / ended.result()["cell"] / "result.json"
    data = storage.read_json(path)
    if what == "records":
        data["evaluation"]["records"]["ppl/heldout"]["pruned"] = where
    else:
        data["heal"] = {"folder": where}
    storage.write_record(path, data)
    with pytest.raises(DamagedError, match=re.escape(repr(where))):
        read_result(path.parent)


def test_a_record_of_healing_names_its_own_folder(tmp_path: Path) -> None:
    for folder in ("../../outside", "healed/other", "/healed/key", "healed/../key"):
        (tmp_path / "key").mkdir(exist_ok=True)
        storage.write_record(tmp_path / "key" / "heal.json", {"folder": folder})
        with pytest.raises(DamagedError, match=r"heal\.json"):
            read_record(tmp_path / "key")


@pytest.mark.parametrize("name", ["evaluation", "studies", "CELL", "CELL/healed"])
def test_folders_that_are_links_are_not_written_to(launch: Command, tmp_path: Path, name: str) -> None:
    ended = launch(*SEARCH)
    (outside := tmp_path / "outside").mkdir()
    link = ended.results / name.replace("CELL", ended.result()["cell"])
    if link.is_dir():
        shutil.move(link, tmp_path / "moved")
    link.symlink_to(outside)
    again = launch(*SEARCH, "eval.samples=3")
    assert again.status != 0
    assert link.name in again.out + again.err
    assert list(outside.iterdir()) == []


@pytest.mark.slow
def test_healed_weights_are_all_there_and_are_numbers(launch: Command) -> None:
    ended = launch(*SEARCH, *HEAL)
    record = ended.result()["heal"]
    folder = ended.results / ended.result()["cell"] / record["folder"]
    whole = load_file(folder / "weights.safetensors")
    some = dict(list(whole.items())[::2])
    for tensors in (some, {name: tensor.int() for name, tensor in whole.items()}):
        save_file(tensors, folder / "weights.safetensors")
        now = {**record, "weights_sha256": file_sha256(folder / "weights.safetensors")}
        with pytest.raises(DamagedError, match=r"weights\.safetensors"):
            read_weights(folder, now)


def test_numbers_of_odd_files_are_damage(tmp_path: Path) -> None:
    for content in ("[" * 100_000, "9" * 5_000, "\ud800", "{", '{"a": 1, "a": 2}'):
        (tmp_path / "odd.json").write_text(content, encoding="utf-8", errors="surrogatepass")
        with pytest.raises(DamagedError, match=r"odd\.json"):
            storage.read_json(tmp_path / "odd.json")
