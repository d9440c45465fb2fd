"""Exports of masks that remove one part of a block: the part's output weights are zeros, and no others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from pruning.core.errors import InputError, MismatchError, UnskippableError
from pruning.core.mask import Mask
from pruning.evaluation import speed
from pruning.export import changed_model, plan
from pruning.export.changed_model import summary
from pruning.export.pipeline import export
from pruning.export.request import Request
from pruning.models.model import Model
from pruning.models.removal import blocks_removed, smaller_config
from pruning.models.sublayers import masked
from tests.helpers import gguf_file
from tests.helpers.architectures import GROUPED, N_BLOCKS, PARALLEL, SEQUENTIAL, build, without, zeroed

IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 79]])
MASK = Mask.parse(N_BLOCKS, "a0 m1 b2 a5")


def request(folder: Path, mask: Mask = MASK, **settings: Any) -> Request:
    model = Model("tiny", "local", str(folder), dtype=settings.pop("dtype", "float32"))
    return Request(model, mask, folder.parent / "out", **settings)


def saved(name: str, folder: Path) -> Any:
    model = build(name)
    model.save_pretrained(folder / "dense")
    return model


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("name", [name for name in SEQUENTIAL if name not in GROUPED])
def test_an_export_is_the_model_without_the_parts(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path)
    facts = export(request(tmp_path / "dense"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    expected = without(zeroed(model, (0, 3, 10)), (2,))
    for key, value in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    with masked(model, MASK):
        assert torch.equal(logits(loaded), logits(model))
    prompt = {
        "input_ids": IDS,
        "attention_mask": torch.ones_like(IDS),
        "max_new_tokens": 6,
        "do_sample": False,
    }
    assert torch.equal(loaded.generate(**prompt, use_cache=True), loaded.generate(**prompt, use_cache=False))
    assert "equal bit for bit" in facts.proof
    assert facts.sizes.parameters == sum(p.numel() for p in loaded.parameters())
    with blocks_removed(model, MASK, smaller_config(model, MASK)):
        assert facts.sizes.parameters - facts.idle == speed.weight(model)[0]


def test_attention_beside_mamba_can_be_zeroed_but_not_taken_out(tmp_path: Path) -> None:
    model = saved("falcon_h1", tmp_path)
    assert "equal bit for bit" in export(request(tmp_path / "dense")).proof
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with masked(model, MASK):
        assert torch.equal(logits(loaded), logits(model))
    with pytest.raises(InputError, match=r"falcon_h1.*unit=mlp"):
        smaller_config(model, MASK)
    mlps = Mask(N_BLOCKS, (3, 7), "sublayer")
    with blocks_removed(model, mlps, smaller_config(model, mlps)):
        pass


@pytest.mark.parametrize("name", PARALLEL)
def test_blocks_without_two_parts_are_refused(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    with pytest.raises(UnskippableError, match="adds attention and MLP to the same state"):
        export(request(tmp_path / "dense"))
    assert not (tmp_path / "out").exists()


def test_the_directory_says_what_is_missing(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    facts = export(request(tmp_path / "dense"))
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "This is dense without 1 of its 6 transformer blocks, the attention of 2 others and the MLP of 1 other. ",
        "The remaining parts are unchanged",
        "Removed, with blocks counted from 0: a0, m1, b2, a5",
        "| attentions in use | 6 | 3 |",
        "| MLPs in use | 6 | 4 |",
        f"| parameters in use | {facts.sizes.dense_parameters:,} | {facts.sizes.parameters - facts.idle:,} |",
        f"| parameters in the file | {facts.sizes.dense_parameters:,} | {facts.sizes.parameters:,} |",
        "It still takes its room in the file and its time",
        "--drop a0,m1,b2,a5 ",
        "## How the parts were chosen",
    ):
        assert part in card
    assert facts.name == "dense-7-of-12-sublayers"
    assert "gained  5 of 12 sub-layers removed (a0 m1 b2 a5), " in summary(facts, tmp_path)
    assert "parameters in use" in summary(facts, tmp_path)
    assert not (tmp_path / "out" / "mergekit.yaml").exists()
    record = json.loads((tmp_path / "out" / "depth_pruning.json").read_text())
    assert record["mask"] == MASK.to_json()
    assert (record["form"], record["idle_parameters"]) == ("zeros", facts.idle)


def test_an_earlier_export_is_replaced_only_for_the_same_parts(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    export(request(tmp_path / "dense"))
    export(request(tmp_path / "dense", verify=False))
    with pytest.raises(InputError, match="holds another export"):
        export(request(tmp_path / "dense", Mask.parse(N_BLOCKS, "a0 m1 b2"), force=True))


def test_whole_blocks_are_exported_as_a_mask_over_blocks(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    blocks = Mask(N_BLOCKS, (1, 4))
    export(request(tmp_path / "dense", blocks))
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    shutil.rmtree(tmp_path / "out")
    export(request(tmp_path / "dense", blocks.as_sublayers(), scales=[1.0] * 12))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    assert "mergekit.yaml" in first


def test_a_compensation_is_refused_unless_all_factors_are_1(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    scales = [1.0] * 12
    scales[3] = 1.25
    with pytest.raises(
        InputError, match=r"compensation of sub-layers cannot be exported \(m1: 1\.25\): it would"
    ):
        export(request(tmp_path / "dense", scales=scales))
    scales[3], scales[6] = 1.0, 2.0  # not removed
    assert export(request(tmp_path / "dense", scales=scales)).scales is None


@pytest.mark.parametrize("text", ["a0 m0 a1 m1 a2 m2 a3 m3 a4 m4 a5 m5", "a0 m0 a1 m1 a2 m2 a3 m3 a4 m4 a5"])
def test_at_least_one_part_must_stay(text: str, tmp_path: Path) -> None:
    saved("llama", tmp_path)
    mask = Mask.parse(N_BLOCKS, text)
    if mask.kept:
        assert "equal bit for bit" in export(request(tmp_path / "dense", mask)).proof
    else:
        with pytest.raises(InputError, match="6 of 6 blocks removed leaves nothing to export"):
            export(request(tmp_path / "dense", mask))


def test_another_weight_that_is_zero_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("mixtral", tmp_path)
    plain = changed_model.Zeros.__call__

    def wrong(zeros: Any, block: int, tail: str, tensor: Tensor) -> Tensor:
        return (
            torch.zeros_like(tensor)
            if tail == "self_attn.v_proj.weight"
            else plain(zeros, block, tail, tensor)
        )

    monkeypatch.setattr(changed_model.Zeros, "__call__", wrong)
    with pytest.raises(MismatchError, match="its logits differ"):
        export(request(tmp_path / "dense"))


def test_experts_in_tensors_of_their_own_are_all_zeros(tmp_path: Path) -> None:
    saved("mixtral", tmp_path)
    names = load_file(tmp_path / "dense" / "model.safetensors")
    last = {name for name in names if ".1." in name and ".w2." in name}
    if not last:
        pytest.skip("this release of transformers saves the experts in one tensor")
    export(request(tmp_path / "dense", Mask.parse(N_BLOCKS, "m1"), verify=False))
    written = load_file(tmp_path / "out" / "model.safetensors")
    zeros = {name for name, tensor in written.items() if not tensor.any()}
    assert zeros == {name for name in names if name.startswith("model.layers.1.") and ".w2." in name}
    assert len(zeros) == 4


def test_a_checkpoint_whose_names_are_unknown_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a stored tensor does not hold what the model has under this name, it is not made zero."""
    saved("llama", tmp_path)
    convert = plan.by_tail

    def swapped(path: str, state: Any) -> dict[str, Tensor]:
        found = convert(path, state)
        up, gate = "mlp.up_proj.weight", "mlp.gate_proj.weight"
        last, other = "self_attn.o_proj.weight", "self_attn.q_proj.weight"  # both are square
        found[up], found[gate] = found[gate], found[up]
        found[last], found[other] = found[other], found[last]
        return found

    monkeypatch.setattr(plan, "by_tail", swapped)
    with pytest.raises(
        InputError, match=r"of block 0 .*are not found .*q_proj.weight holds other values than"
    ):
        export(request(tmp_path / "dense", Mask.parse(N_BLOCKS, "a0")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_precision_is_that_of_the_setting(tmp_path: Path, dtype: str) -> None:
    saved("gpt2", tmp_path)
    assert "equal bit for bit" in export(request(tmp_path / "dense", dtype=dtype)).proof
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == getattr(torch, dtype)


@pytest.mark.parametrize("verified", [True, False])
def test_a_gguf_file(tmp_path: Path, verified: bool) -> None:
    (tmp_path / "dense").mkdir()
    gguf_file.write(tmp_path / "dense" / "tiny.gguf")
    facts = export(request(tmp_path / "dense", Mask.parse(N_BLOCKS, "a1 m4"), verify=verified))
    assert ("equal bit for bit" in facts.proof) == verified
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    zeros = {name for name, tensor in tensors.items() if not tensor.any()}
    assert zeros == {"model.layers.1.self_attn.o_proj.weight", "model.layers.4.mlp.down_proj.weight"}
