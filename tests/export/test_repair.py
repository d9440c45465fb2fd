"""Exports of repaired masks: the maps are in the weights, and the model is the masked and repaired one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pruning.core.errors import InputError, MismatchError
from pruning.core.mask import Mask
from pruning.export import changed_model
from pruning.export.pipeline import export
from pruning.export.request import Request
from pruning.models.model import Model
from pruning.models.output_maps import Repair, find_fold, repaired
from pruning.models.sublayers import masked
from tests.helpers import gguf_file
from tests.helpers.architectures import GROUPED, N_BLOCKS, SEQUENTIAL, build

IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 79]])
BLOCKS, PARTS = Mask(N_BLOCKS, (1, 2, 4)), Mask.parse(N_BLOCKS, "a1 b3 m4")


def maps(model: Any, mask: Mask) -> Repair:
    """Random maps for the units before the runs of a mask."""
    generator = torch.Generator().manual_seed(3)
    dropped = mask.as_sublayers().dropped
    found = {}
    for unit in sorted({u - 1 for u in dropped} - set(dropped) - {-1}):
        size = (32, 32) if find_fold(model, unit, "linear").form == "linear" else (32,)
        found[unit] = (
            torch.eye(32) + 0.2 * torch.randn(size, generator=generator)
            if len(size) == 2
            else (1 + 0.3 * torch.randn(size, generator=generator))
        )
    return Repair(found)


def request(name: str, folder: Path, mask: Mask = BLOCKS, **settings: Any) -> tuple[Any, Request]:
    model = build(name)
    model.save_pretrained(folder / "dense")
    source = Model("tiny", "local", str(folder / "dense"), dtype=settings.pop("dtype", "float32"))
    return model, Request(source, mask, folder / "out", repair=maps(model, mask), **settings)


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("mask", [BLOCKS, PARTS], ids=["blocks", "parts"])
@pytest.mark.parametrize("name", [name for name in SEQUENTIAL if name not in GROUPED])
def test_an_export_is_the_masked_and_repaired_model(name: str, mask: Mask, tmp_path: Path) -> None:
    model, wanted = request(name, tmp_path, mask)
    facts = export(wanted)
    assert "equal bit for bit to those of the masked and repaired model" in facts.proof
    written = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32))
    with masked(model, mask):
        plain = logits(model)
        with repaired(model, wanted.repair):
            torch.testing.assert_close(written, logits(model), rtol=1e-4, atol=1e-4)
    assert (written - plain).norm() > 1e-2 * plain.norm(), "the maps made no difference"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_equal_bit_for_bit_too(dtype: str, tmp_path: Path) -> None:
    _, wanted = request("qwen3", tmp_path, PARTS, dtype=dtype)
    assert "equal bit for bit" in export(wanted).proof
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == getattr(torch, dtype)


def test_only_the_weights_before_a_run_are_changed(tmp_path: Path) -> None:
    model, wanted = request("llama", tmp_path, PARTS)
    export(wanted)
    state = load_file(tmp_path / "out" / "model.safetensors")
    kept = [block for block in range(N_BLOCKS) if block not in PARTS.gone]
    changed, zeros = set(), set()
    for new, old in enumerate(kept):
        for name, tensor in model.model.layers[old].state_dict().items():
            written = state[f"model.layers.{new}.{name}"]
            if not torch.equal(written, tensor):
                (changed if written.any() else zeros).add((old, name))
    assert changed == {
        (0, "mlp.down_proj.weight"),
        (2, "mlp.down_proj.weight"),
        (4, "self_attn.o_proj.weight"),
    }
    assert zeros == {(1, "self_attn.o_proj.weight"), (4, "mlp.down_proj.weight")}
    assert wanted.repair is not None
    expected = wanted.repair.maps[1].T @ model.model.layers[0].mlp.down_proj.weight
    assert torch.allclose(state["model.layers.0.mlp.down_proj.weight"], expected, atol=1e-5)


@pytest.mark.parametrize("verified", [True, False])
def test_a_gguf_file(tmp_path: Path, verified: bool) -> None:
    (tmp_path / "dense").mkdir()
    gguf_file.write(tmp_path / "dense" / "tiny.gguf")
    source = Model("tiny", "local", str(tmp_path / "dense" / "tiny.gguf"), dtype="float32")
    wanted = Request(source, Mask(N_BLOCKS, (1, 4)), tmp_path / "out", verify=verified)
    export(wanted)
    before = load_file(tmp_path / "out" / "model.safetensors")
    width = before["model.layers.0.mlp.down_proj.weight"].shape[0]
    repair = Repair({1: 2 * torch.eye(width)})
    facts = export(dataclasses.replace(wanted, repair=repair, force=True))
    assert ("equal bit for bit" in facts.proof) == verified
    after = load_file(tmp_path / "out" / "model.safetensors")
    different = {name for name in before if not torch.equal(before[name], after[name])}
    assert different == {"model.layers.0.mlp.down_proj.weight"}
    assert torch.equal(after[different.pop()], 2 * before["model.layers.0.mlp.down_proj.weight"])


def test_a_wrong_value_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed_model.NewValues, "__call__", lambda _self, _block, _tail, tensor: tensor)
    with pytest.raises(MismatchError, match="its logits differ from those of the masked and repaired model"):
        export(request("llama", tmp_path)[1])
    assert not (tmp_path / "out").exists()


def test_the_directory_says_what_was_repaired(tmp_path: Path) -> None:
    _, wanted = request("llama", tmp_path)
    export(wanted)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "the output of `m0`, `m3` (`a`: the attention" in card
    assert "nothing was trained by gradients" in card
    assert "--drop" not in card, "this command would not repair"
    assert "does not contain the compensation" in (tmp_path / "out" / "mergekit.yaml").read_text()
    record = json.loads((tmp_path / "out" / "depth_pruning.json").read_text())
    assert wanted.repair is not None
    assert record["compensation"] == {"repair": wanted.repair.sha256}
    assert record["repaired"] == ["m0", "m3"]
    export(wanted)  # the same again
    other = dataclasses.replace(wanted, repair=Repair({1: torch.eye(32)}))
    with pytest.raises(InputError, match="with another compensation"):
        export(other)


def test_a_map_that_cannot_be_folded_is_refused(tmp_path: Path) -> None:
    _, wanted = request("gemma3", tmp_path)
    with pytest.raises(InputError, match="the map of m0 cannot be folded: the block normalises"):
        export(dataclasses.replace(wanted, repair=Repair({1: torch.eye(32)})))
    assert not (tmp_path / "out").exists()
