"""What identifies scores and measurements, what is asked or kept only once, and the bar that shows a search."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from pruning.config.compose import recorded_cell
from pruning.core import storage
from pruning.engine.forward import Forward
from pruning.engine.prefix_tree import Beginnings
from pruning.models.handle import Model
from pruning.runs import run_cell
from pruning.runs.cell import Prepared
from pruning.runs.measurements import evaluation_key, search_shown
from pruning.runs.prepare import prepare
from tests.conftest import Command
from tests.helpers.jobs import job


def prepared(model_folder: Path, tmp_path: Path, *words: str) -> Prepared:
    asked = job(model_folder, tmp_path, "k=1", "calibration.length=24", *words)
    return prepare(recorded_cell(asked.config))


def changed(ready: Prepared, **changes: Any) -> Prepared:
    return replace(ready, cell=replace(ready.cell, **changes))


def test_times_are_of_where_the_weights_are(model_folder: Path, tmp_path: Path) -> None:
    usual = prepared(model_folder, tmp_path, "eval=speed", "eval.samples=", "eval.length=", "eval.items=")
    info = usual.cell.model.load().info
    placed = changed(usual, model=replace(usual.cell.model, device_map="cpu"))
    assert evaluation_key(placed, info, "speed") != evaluation_key(usual, info, "speed")
    assert usual.cell.model.placement() == {}


def test_a_bar_counts_up_to_its_total_and_no_further(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tqdm.tqdm", partial(tqdm, disable=False))
    monkeypatch.setattr("pruning.core.terminal.is_terminal", lambda stream: stream is not None)
    with search_shown("tiny margin greedy", 11, known=4) as show:
        show(12, 3.25, 2)
    printed = capsys.readouterr().err
    assert all(text in printed for text in (" 36%|", "| 11/11 ", " 3.2500 without 2"))


@pytest.mark.parametrize("algos", ["one_shot", "one_shot,greedy,random"])
def test_files_are_hashed_and_the_configuration_and_tokenizer_read_once(
    algos: str, launch: Command, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, read = Counter[str](), Counter[str]()
    hash_file, read_with = storage._read, Model.read_with

    def hashing(file: Path, *rest: Any) -> str:
        if file.parent == model_folder.resolve():
            hashed[file.name] += 1
        return hash_file(file, *rest)

    def reading(self: Model, kind: Any, *rest: Any) -> Any:
        read[kind.__name__] += 1
        return read_with(self, kind, *rest)

    monkeypatch.setattr(storage, "_read", hashing)
    monkeypatch.setattr(Model, "read_with", reading)
    monkeypatch.setattr("pruning.models.handle._loaded", [])
    ended = launch("-m", f"algo={algos}", "k=2", "calibration.samples=2", "calibration.length=16")
    assert ended.status == 0, ended.err
    assert len(ended.all()) == len(algos.split(","))
    weights = [file.name for file in model_folder.iterdir() if file.suffix == ".safetensors"]
    assert {*weights, "config.json", "tokenizer.json"} <= {*hashed}
    assert {*hashed.values()} == {1}
    assert read == {"AutoConfig": 1, "AutoTokenizer": 1, "AutoModelForCausalLM": 1}


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of all states that were kept before they were freed."""
    sizes, clear = list[int](), Beginnings.clear

    def cleared(self: Beginnings, *given: Any, **named: Any) -> None:
        sizes.append(self.nbytes())
        clear(self, *given, **named)

    monkeypatch.setattr(Beginnings, "clear", cleared)
    return sizes


def test_a_cell_keeps_no_states(launch: Command, most: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    forwards, make = list[Forward](), run_cell.forward_of

    def made(*given: Any) -> Forward:
        forwards.append(make(*given))
        return forwards[-1]

    monkeypatch.setattr(run_cell, "forward_of", made)
    launch("algo=greedy", "ratio=0.5")
    assert max(most) > 0, "nothing was kept during the search"
    assert [forward.beginnings.nbytes() for forward in forwards] == [0]
