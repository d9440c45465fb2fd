"""Exports of masks over parts of blocks and of repaired masks: which weights change, and no others."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pruning.core.errors import InputError, MismatchError
from pruning.core.mask import Mask
from pruning.evaluation import speed
from pruning.export import plan
from pruning.export.model_card import summary
from pruning.export.pipeline import export
from pruning.export.request import Request
from pruning.models.output_maps import Repair, find_fold, repaired
from pruning.models.removal import blocks_removed, smaller_config
from pruning.models.sublayers import masked
from tests.helpers.architectures import N_BLOCKS, SEQUENTIAL, logits, without, zeroed
from tests.helpers.damage import tree
from tests.helpers.exports import EQUAL, caches, changed_tensors, load, saved, wanted

MASK = Mask.parse(N_BLOCKS, "a0 m1 b2 a5")
BLOCKS, PARTS = Mask(N_BLOCKS, (1, 2, 4)), Mask.parse(N_BLOCKS, "a1 b3 m4")


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_an_export_is_the_model_without_the_parts(name: str, tmp_path: Path) -> None:
    model, dense = saved(name, tmp_path)
    facts = export(wanted(dense, MASK))
    loaded = load(tmp_path / "out")
    expected = without(zeroed(model, (0, 3, 10)), (2,))
    for key, value in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    with masked(model, MASK):
        assert torch.equal(logits(loaded), logits(model))
    assert caches(loaded)
    assert EQUAL in facts.proof
    assert facts.sizes.parameters == sum(p.numel() for p in loaded.parameters())
    with blocks_removed(model, MASK, smaller_config(model, MASK)):
        assert facts.sizes.parameters - facts.idle == speed.weight(model)[0]


def test_the_record_and_the_summary_say_what_is_missing(tmp_path: Path) -> None:
    facts = export(wanted(saved("llama", tmp_path)[1], MASK, verify=False))
    assert facts.name == "dense-7-of-12-sublayers"
    assert any("--drop a0,m1,b2,a5 " in command for command in facts.commands)
    assert "(5 of 12 sub-layers: a0 m1 b2 a5), " in summary(facts, tmp_path)
    record = json.loads((tmp_path / "out" / "depth_pruning.json").read_text())
    assert record["mask"] == MASK.to_json()
    assert (record["form"], record["idle_parameters"]) == ("zeros", facts.idle)


def test_whole_blocks_are_exported_as_a_mask_over_blocks(tmp_path: Path) -> None:
    _, dense = saved("llama", tmp_path)
    export(wanted(dense, BLOCKS, verify=False))
    first = tree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    export(wanted(dense, BLOCKS.as_sublayers(), verify=False))
    assert tree(tmp_path / "out") == first


def test_one_part_is_enough(tmp_path: Path) -> None:
    first = Mask(N_BLOCKS, tuple(range(11)), "sublayer")
    assert EQUAL in export(wanted(saved("llama", tmp_path)[1], first)).proof


def test_a_checkpoint_whose_names_are_unknown_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert, (_, dense) = plan.by_tail, saved("llama", tmp_path)

    def swapped(path: str, state: Any) -> dict[str, Tensor]:
        found = convert(path, state)
        last, other = "self_attn.o_proj.weight", "self_attn.q_proj.weight"  # both are square
        found[last], found[other] = found[other], found[last]
        return found

    monkeypatch.setattr(plan, "by_tail", swapped)
    with pytest.raises(MismatchError):
        export(wanted(dense, Mask.parse(N_BLOCKS, "a0")))
    monkeypatch.setattr(plan, "by_tail", lambda *given: {f"{n}.old": v for n, v in convert(*given).items()})
    with pytest.raises(InputError, match=r"block 0 .*\.old"):
        export(wanted(dense, Mask.parse(N_BLOCKS, "a0"), verify=False))
    assert not (tmp_path / "out").exists()


def maps(model: Any, mask: Mask) -> Repair:
    """Random maps for the units before the runs of a mask."""
    generator = torch.Generator().manual_seed(3)
    dropped = mask.as_sublayers().dropped
    found = {}
    for unit in sorted({u - 1 for u in dropped} - set(dropped) - {-1}):
        full = find_fold(model, unit).form == "linear"
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
    assert EQUAL in export(given).proof
    written = logits(load(tmp_path / "out", dtype=torch.float32))
    with masked(model, mask):
        plain = logits(model)
        with repaired(model, given.repair):
            torch.testing.assert_close(written, logits(model), rtol=1e-4, atol=1e-4)
    assert (written - plain).norm() > 1e-2 * plain.norm(), "the maps made no difference"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_equal_bit_for_bit_too(dtype: str, tmp_path: Path) -> None:
    _, given = request("qwen3", tmp_path, PARTS, dtype=dtype)
    assert EQUAL in export(given).proof
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
