"""A model is asked each question once, however many cells of a command use it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pruning.core import storage
from pruning.models.handle import Model
from tests.conftest import Command


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
