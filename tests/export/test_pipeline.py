"""Exports of tiny models of every architecture, of a GGUF file, and of the two packaged models."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pruning.core.errors import InputError, MismatchError
from pruning.core.mask import Mask
from pruning.export import checkpoint
from pruning.export.model_card import summary
from pruning.export.pipeline import export
from pruning.export.request import Request, parse
from pruning.models.handle import Model
from tests.helpers import gguf_models
from tests.helpers.architectures import ARCHITECTURES, N_BLOCKS, logits, without
from tests.helpers.damage import edit_config, tree
from tests.helpers.exports import EQUAL, caches, load, saved, wanted
from tests.helpers.hub_cache import cached


@pytest.fixture
def dense(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tests' model."""
    return Path(shutil.copytree(model_folder, tmp_path / "dense"))


@pytest.mark.parametrize("dropped", [(1, 4), (0, 5)], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_export_is_the_model_without_the_blocks(
    name: str, dropped: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, dense = saved(name, tmp_path)
    monkeypatch.setattr(checkpoint, "LARGEST", "40KB")
    facts = export(wanted(dense, dropped))
    smaller = load(tmp_path / "out")
    assert smaller.dtype == torch.float32
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert torch.equal(logits(smaller), logits(without(model, dropped)))
    assert caches(smaller)
    assert EQUAL in facts.proof
    assert facts.sizes.parameters == sum(p.numel() for p in smaller.parameters())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"dense", "out"}, "a temporary file or folder is left"


WIDTH = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 97, "intermediate_size": 48}
SMALL = WIDTH | {
    "num_key_value_heads": 2,
    "num_hidden_layers": N_BLOCKS,
    "pad_token_id": 0,
    "bos_token_id": 1,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
RANKS = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
VISION = {**WIDTH, "num_hidden_layers": N_BLOCKS, "image_size": 28, "patch_size": 14}
# Their configurations describe the kinds of blocks in other ways than those in tests/helpers/architectures.py.
FURTHER: dict[str, dict[str, Any]] = {
    "Qwen2MoeConfig": SMALL | EXPERTS | {"num_experts": 4},
    "DeepseekV3Config": SMALL
    | EXPERTS
    | RANKS
    | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 3},
    "Llama4TextConfig": SMALL
    | {"intermediate_size_mlp": 48, "num_local_experts": 4, "head_dim": 8, "interleave_moe_layer_step": 2},
    "Gemma3Config": {
        "text_config": SMALL | {"head_dim": 8, "sliding_window": 5, "sliding_window_pattern": 3},
        "vision_config": VISION,  # as many blocks as the text has
        "mm_tokens_per_image": 4,
    },
}


@pytest.mark.parametrize("kind", FURTHER)
def test_further_architectures(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**FURTHER[kind])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "dense")
    assert EQUAL in export(wanted(tmp_path / "dense", (1, 4))).proof


def test_a_hub_model_is_cut_from_the_cache(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    commit = "c0ffee" + "0" * 34
    cached(tmp_path, monkeypatch, "someone/tiny", files, commit)
    words = ["--drop", "2,3", f"out={tmp_path / 'out'}", "model=qwen3", "model.name=tiny"]
    facts = export(parse([*words, "model.path=someone/tiny"]))
    quality, removed, where = summary(facts, tmp_path / "out").splitlines()
    assert "not measured" in quality
    assert removed.startswith("removed 33.3 % ")
    assert where.startswith(f"model   {tmp_path / 'out'} (reloaded: ")
    assert EQUAL in where
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model: someone/tiny" in card
    assert f"model.revision={commit}" in card
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("a").input_ids


def test_files_beside_the_weights_come_along(dense: Path, tmp_path: Path) -> None:
    (dense / "LICENSE").write_text("terms")
    (dense / "tekken.json").write_text("{}")
    (dense / "modeling_tiny.py").write_text("raise SystemExit")
    (dense / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n")
    edit_config(dense, auto_map={"AutoModel": "modeling_tiny.Tiny"})
    tokenizer, templates = AutoTokenizer.from_pretrained(dense), {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}
    tokenizer.chat_template = templates
    tokenizer.save_pretrained(dense)
    out, text = tmp_path / "out", "which blocks can go"
    for _ in range(2):  # an export with a folder in it is replaced, too
        export(wanted(dense, (2,)))
        written = AutoTokenizer.from_pretrained(out)
        assert written.chat_template == templates
        assert written(text).input_ids == tokenizer(text).input_ids
    for name in ("LICENSE", "tokenizer.json", "generation_config.json", "tekken.json"):
        assert (out / name).read_bytes() == (dense / name).read_bytes()
    assert not list(out.glob("*.py"))
    assert "auto_map" not in json.loads((out / "config.json").read_text())
    assert "license: mit" in (out / "README.md").read_text()
    files = json.loads((out / "depth_pruning.json").read_text())["files"]
    assert "additional_chat_templates/tool_use.jinja" in files


@pytest.mark.parametrize("more", [{"do_sample": True, "temperature": 0.3}, {"temperature": 0.3}])
def test_generation_settings_in_the_configuration_are_kept(
    dense: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    (dense / "generation_config.json").unlink()
    edit_config(dense, eos_token_id=[1, 2], max_length=77, **more)
    export(wanted(dense, (2,), verify=False))
    before, after = (load(folder).generation_config for folder in (dense, tmp_path / "out"))
    assert (after.max_length, after.temperature) == (77, 0.3)
    assert after == before


@pytest.mark.parametrize("dropped", ["2", "a2 m3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_the_precision_is_that_of_the_setting(dense: Path, tmp_path: Path, dtype: str, dropped: str) -> None:
    assert EQUAL in export(wanted(dense, Mask.parse(N_BLOCKS, dropped), dtype=dtype)).proof
    assert load(tmp_path / "out").dtype == getattr(torch, dtype)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("verified", [True, False])
def test_a_gguf_file_is_dequantised(tmp_path: Path, verified: bool) -> None:
    (tmp_path / "dense").mkdir()
    gguf_models.write(tmp_path / "dense" / "tiny.gguf", type_="Q8_0")
    facts = export(wanted(tmp_path / "dense", (1, 4), verify=verified))
    assert (EQUAL in facts.proof) == verified
    out = tmp_path / "out"
    dense, smaller = load(tmp_path / "dense", gguf_file="tiny.gguf", dtype=torch.float32), load(out)
    for new, old in enumerate((0, 2, 3, 5)):
        for name, tensor in dense.model.layers[old].state_dict().items():
            assert torch.equal(smaller.model.layers[new].state_dict()[name], tensor)
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert not any("quant" in name or "gguf" in name for name in config)
    assert AutoTokenizer.from_pretrained(out).vocab_size == gguf_models.VOCABULARY
    smaller.save_pretrained(tmp_path / "again")  # a model loaded from GGUF refuses this


def test_without_the_comparison_no_model_is_loaded(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "load_anew", lambda *_: pytest.fail("the model was loaded"))
    assert "verify=false" in export(wanted(dense, (2,), verify=False)).proof
    assert load(tmp_path / "out").config.num_hidden_layers == 5


def test_a_failed_check_leaves_everything_as_it_was(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(wanted(dense, (2,)))
    before = tree(tmp_path)
    rename = checkpoint.TensorPlan.rename
    monkeypatch.setattr(  # a cut that removes block 3 instead of 2
        checkpoint.TensorPlan,
        "rename",
        lambda plan, name: rename(replace(plan, mask=Mask(N_BLOCKS, (3,))), name),
    )
    with pytest.raises(MismatchError, match=r" by [\d.]+ .*token 0 of 64"):
        export(wanted(dense, (2,)))
    assert tree(tmp_path) == before


def test_layer_types_left_alone_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, dense = saved("gemma3", tmp_path)

    def truncated(config: Any, mask: Mask) -> Any:
        new = AutoConfig.from_pretrained(dense)
        new.num_hidden_layers = len(mask.kept)
        new.layer_types = config.layer_types[: len(mask.kept)]
        return new

    monkeypatch.setattr("pruning.models.pruned_config.pruned_config", truncated)
    with pytest.raises(InputError, match=r"block 2 .*block 1: .*sliding"):
        export(wanted(dense, (1,)))
    monkeypatch.setattr("pruning.models.pruned_config._traits", lambda _: [])
    with pytest.raises(MismatchError, match=r"logits .* token \d+ of \d+"):
        export(wanted(dense, (1,)))


def test_an_earlier_export_of_the_same_mask_is_replaced(dense: Path, tmp_path: Path) -> None:
    for _ in range(2):
        export(wanted(dense, (2,), verify=False))
    for other, settings in (("precision", {"dtype": "bfloat16"}), ("mask", {"mask": (3,)})):
        request = wanted(dense, **{"mask": (2,), "verify": False, **settings})
        with pytest.raises(InputError, match=rf" {other}\b.* force=true"):
            export(request)
        export(replace(request, force=True))
    assert load(tmp_path / "out").dtype == torch.float32


def test_ctrl_c_leaves_nothing_behind(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "copy_beside", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(wanted(dense, (2,)))
    assert {path.name for path in tmp_path.iterdir()} == {"dense"}


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize(
    ("name", "mask", "full"),
    [("smollm2", Mask(30, (0, 5, 14)), None), ("gemma3_270m", Mask(18, (2, 5, 9)), [8, 14])],
)
def test_packaged_models(name: str, mask: Mask, full: list[int] | None, tmp_path: Path) -> None:
    model = Model(name, "packaged", name, dtype="bfloat16")
    facts = export(Request(model, mask, tmp_path / "out"))
    assert EQUAL in facts.proof
    smaller = load(tmp_path / "out")
    assert smaller.dtype == torch.bfloat16
    assert sum(p.numel() for p in smaller.parameters()) == facts.sizes.parameters
    if full is not None:  # blocks 11 and 17 of the whole model; 5 is dropped
        kinds = smaller.config.layer_types
        assert [i for i, kind in enumerate(kinds) if kind == "full_attention"] == full
    words = AutoTokenizer.from_pretrained(tmp_path / "out")("The capital of France is", return_tensors="pt")
    longer = smaller.generate(**words, max_new_tokens=4, do_sample=False)
    assert longer.shape[1] == words.input_ids.shape[1] + 4
