"""The check of an export finds its errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pruning.core.errors import MismatchError
from pruning.core.mask import Mask
from pruning.export import verify
from pruning.export.pipeline import export
from pruning.models.handle import Model
from tests.helpers.architectures import N_BLOCKS, build
from tests.helpers.exports import saved, wanted

MASK = Mask(N_BLOCKS, (1, 4))
Exported = tuple[Model, Path, verify.Expected]


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    """Settings, an export, and its required output."""
    request = wanted(saved("qwen3", tmp_path)[1], MASK, verify=False)
    export(request)
    model = verify.load_rounded(request.model, lambda _, dtype: dtype)
    return request.model, request.out, verify.expected(model, MASK)


def test_an_export_passes(exported: Exported) -> None:
    settings, folder, goal = exported
    proof = verify.compare_export(folder, goal, settings)
    assert proof.startswith("reloaded: logits of 64 tokens are equal bit for bit")
    assert f"{verify.NEW_TOKENS} tokens generated" in proof
    record = json.loads((folder / "depth_pruning.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    assert record["sizes"]["bytes"] == sum(tensor.nbytes for tensor in tensors.values())
    assert record["mask"] == MASK.to_json()


def one_bit(tensors: dict[str, torch.Tensor]) -> None:
    weight = tensors["model.layers.3.mlp.down_proj.weight"]
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(10.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_bit, r"differ .* by \d(\.\d+)?e-\d+ at most, .*\(100%"),
        (lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"), r"model.layers.2.mlp.up_proj"),
    ],
)
def test_changed_and_missing_weights_are_found(
    exported: Exported, change: Callable[[Any], Any], message: str
) -> None:
    settings, folder, goal = exported
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match=message):
        verify.compare_export(folder, goal, settings)


def test_a_cache_that_changes_the_answer_is_found(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, folder, goal = exported
    generate = verify._generate
    monkeypatch.setattr(
        verify, "_generate", lambda model, ids, cached: generate(model, ids[:, int(cached) :], cached)
    )
    with pytest.raises(MismatchError, match=r"generated token \d is \d+ with the cache and \d+ without"):
        verify.compare_export(folder, goal, settings)


def test_weights_are_compared_as_they_are_written(tmp_path: Path) -> None:
    settings = wanted(saved("qwen3", tmp_path)[1], MASK, dtype="bfloat16").model
    state = verify.load_rounded(settings, lambda *_: torch.bfloat16).state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in state.values())


@pytest.mark.parametrize(("window", "context", "length"), [(100, 8192, 108), (100, 50, 50), (4096, 8192, 64)])
def test_ids_are_longer_than_a_sliding_window(window: int, context: int, length: int) -> None:
    model = build("mistral")
    model.config.sliding_window, model.config.max_position_embeddings = window, context
    assert verify._ids(model).shape == (1, length)
