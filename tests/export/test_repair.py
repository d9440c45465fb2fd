"""Exports of repaired masks: the maps are in the weights, and the model is the masked and repaired one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pruning.core.errors import InputError, MismatchError
from pruning.core.mask import Mask
from pruning.export import plan
from pruning.export.pipeline import export
from pruning.export.request import Request
from pruning.models.output_maps import Repair, find_fold, repaired
from pruning.models.sublayers import masked
from tests.helpers import gguf_models
from tests.helpers.architectures import N_BLOCKS, SEQUENTIAL
from tests.helpers.exports import changed_tensors, load, logits, saved, wanted

BLOCKS, PARTS = Mask(N_BLOCKS, (1, 2, 4)), Mask.parse(N_BLOCKS, "a1 b3 m4")


def maps(model: Any, mask: Mask) -> Repair:
    """Random maps for the units before the runs of a mask."""
    generator = torch.Generator().manual_seed(3)
    dropped = mask.as_sublayers().dropped
    found = {}
    for unit in sorted({u - 1 for u in dropped} - set(dropped) - {-1}):
        full = find_fold(model, unit, "linear").form == "linear"
        noise = torch.randn((32, 32) if full else (32,), generator=generator)
        found[unit] = torch.eye(32) + 0.2 * noise if full else 1 + 0.3 * noise
    return Repair(found)


def request(name: str, folder: Path, mask: Mask = BLOCKS, **settings: Any) -> tuple[Any, Request]:
    model, dense = saved(name, folder)
    return model, wanted(dense, mask, repair=maps(model, mask), **settings)


@pytest.mark.parametrize("mask", [BLOCKS, PARTS], ids=["blocks", "parts"])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_an_export_is_the_masked_and_repaired_model(name: str, mask: Mask, tmp_path: Path) -> None:
    model, given = request(name, tmp_path, mask)
    assert "equal bit for bit to those of the masked and repaired model" in export(given).proof
    written = logits(load(tmp_path / "out", dtype=torch.float32))
    with masked(model, mask):
        plain = logits(model)
        with repaired(model, given.repair):
            torch.testing.assert_close(written, logits(model), rtol=1e-4, atol=1e-4)
    assert (written - plain).norm() > 1e-2 * plain.norm(), "the maps made no difference"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_equal_bit_for_bit_too(dtype: str, tmp_path: Path) -> None:
    _, given = request("qwen3", tmp_path, PARTS, dtype=dtype)
    assert "equal bit for bit" in export(given).proof
    assert load(tmp_path / "out").dtype == getattr(torch, dtype)


def test_only_the_weights_before_a_run_are_changed(tmp_path: Path) -> None:
    model, given = request("llama", tmp_path, PARTS)
    export(given)
    state = load_file(tmp_path / "out" / "model.safetensors")
    maps = {(0, "mlp.down_proj.weight"), (2, "mlp.down_proj.weight"), (4, "self_attn.o_proj.weight")}
    zeros = {(1, "self_attn.o_proj.weight"), (4, "mlp.down_proj.weight")}
    assert changed_tensors(model, state, PARTS) == maps | zeros
    new = [0, 1, 2, 4, 5].index
    assert not any(state[f"model.layers.{new(old)}.{name}"].any() for old, name in zeros)
    assert given.repair is not None
    expected = given.repair.maps[1].T @ model.model.layers[0].mlp.down_proj.weight
    assert torch.allclose(state["model.layers.0.mlp.down_proj.weight"], expected, atol=1e-5)


@pytest.mark.parametrize("verified", [True, False])
def test_a_gguf_file(tmp_path: Path, verified: bool) -> None:
    (tmp_path / "dense").mkdir()
    gguf_models.write(tmp_path / "dense" / "tiny.gguf", type_="Q8_0")
    given = wanted(tmp_path / "dense", (1, 4), verify=verified)
    export(given)
    before = load_file(tmp_path / "out" / "model.safetensors")
    width = before["model.layers.0.mlp.down_proj.weight"].shape[0]
    repair = Repair({1: 2 * torch.eye(width)})
    facts = export(dataclasses.replace(given, repair=repair, force=True))
    assert ("equal bit for bit" in facts.proof) == verified
    after = load_file(tmp_path / "out" / "model.safetensors")
    different = {name for name in before if not torch.equal(before[name], after[name])}
    assert different == {"model.layers.0.mlp.down_proj.weight"}
    assert torch.equal(after[different.pop()], 2 * before["model.layers.0.mlp.down_proj.weight"])


def test_a_wrong_value_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_stored_values", lambda *_: {})
    with pytest.raises(MismatchError, match="masked and repaired model"):
        export(request("llama", tmp_path)[1])
    assert not (tmp_path / "out").exists()


def test_the_record_says_what_was_repaired(tmp_path: Path) -> None:
    _, given = request("llama", tmp_path)
    facts = export(given)
    assert not any("--drop" in command for command in facts.commands), "this command would not repair"
    record = json.loads((tmp_path / "out" / "depth_pruning.json").read_text())
    assert given.repair is not None
    assert record["compensation"] == {"repair": given.repair.sha256}
    assert record["repaired"] == ["m0", "m3"]
    export(given)  # the same again
    with pytest.raises(InputError, match="compensation"):
        export(dataclasses.replace(given, repair=Repair({1: torch.eye(32)})))


def test_a_map_that_cannot_be_folded_is_refused(tmp_path: Path) -> None:
    _, given = request("gemma3", tmp_path)
    with pytest.raises(InputError, match="m0"):
        export(dataclasses.replace(given, repair=Repair({1: torch.eye(32)})))
    assert not (tmp_path / "out").exists()
