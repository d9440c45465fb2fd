"""The check of an export finds its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pruning.core.mask import Mask
from pruning.export import verify
from pruning.export.pipeline import export
from pruning.export.request import Request
from pruning.models.model import Model
from tests.helpers.architectures import N_BLOCKS, build

MASK = Mask(N_BLOCKS, (1, 4))


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Model, Path, verify.Expected]:
    """Settings, an export, and its required output."""
    build("qwen3").save_pretrained(tmp_path / "dense")
    settings = Model("tiny", "local", str(tmp_path / "dense"), dtype="float32")
    export(Request(settings, MASK, tmp_path / "out", verify=False))
    model = verify.load_rounded(settings, lambda _, dtype: dtype)
    return settings, tmp_path / "out", verify.expected(model, MASK)


def test_an_export_passes(exported: tuple[Model, Path, verify.Expected]) -> None:
    settings, folder, goal = exported
    assert verify.compare_export(folder, goal, settings, exact=True) == verify.Proof(
        64, 0.0, 0.0, verify.NEW_TOKENS
    )


def test_one_changed_bit_is_found(exported: tuple[Model, Path, verify.Expected]) -> None:
    settings, folder, goal = exported
    tensors = load_file(folder / "model.safetensors")
    weight = tensors["model.layers.3.mlp.down_proj.weight"]
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(10.0))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        verify.MismatchError, match=r"differ .* by \d(\.\d+)?e-\d+ at most, .*\(100% of the most"
    ):
        verify.compare_export(folder, goal, settings, exact=True)


def test_missing_weights_are_found(exported: tuple[Model, Path, verify.Expected]) -> None:
    settings, folder, goal = exported
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        verify.MismatchError, match=r"1 weights are missing, for example model.layers.2.mlp.up_proj.weight"
    ):
        verify.compare_export(folder, goal, settings, exact=True)


def test_a_cache_that_changes_the_answer_is_found(
    exported: tuple[Model, Path, verify.Expected], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, folder, goal = exported
    generate = verify._generate
    monkeypatch.setattr(
        verify, "_generate", lambda model, ids, cached: generate(model, ids[:, int(cached) :], cached)
    )
    with pytest.raises(
        verify.MismatchError, match=r"generated token \d is \d+ with the cache and \d+ without"
    ):
        verify.compare_export(folder, goal, settings, exact=True)


def test_weights_are_compared_as_they_are_written(tmp_path: Path) -> None:
    build("qwen3").save_pretrained(tmp_path / "dense")
    settings = Model("tiny", "local", str(tmp_path / "dense"), dtype="bfloat16")
    model = verify.load_rounded(settings, lambda *_: torch.bfloat16)
    state: dict[str, Any] = model.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in state.values())


def test_ids_are_longer_than_a_sliding_window() -> None:
    model = build("mistral")
    model.config.sliding_window = 100
    assert verify._ids(model).shape == (1, 108)
    model.config.max_position_embeddings = 50
    assert verify._ids(model).shape == (1, 50)
    model.config.sliding_window, model.config.max_position_embeddings = 4096, 8192
    assert verify._ids(model).shape == (1, 64)


def test_the_record_describes_the_written_files(
    exported: tuple[Model, Path, verify.Expected],
) -> None:
    _, folder, _ = exported
    record = json.loads((folder / "depth_pruning.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    assert record["sizes"]["bytes"] == sum(tensor.nbytes for tensor in tensors.values())
    assert record["mask"] == MASK.to_json()
