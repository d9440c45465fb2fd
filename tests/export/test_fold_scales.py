"""Compensation folded into weights equals the engine's form, a factor on the residual stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.export import verify
from pruning.export.pipeline import export
from pruning.export.plan import plan_fold
from pruning.export.request import Request
from pruning.models.model import Model
from tests.helpers.architectures import ARCHITECTURES, N_BLOCKS, build

MASK = Mask(N_BLOCKS, (1, 2, 4))
SCALES = (9.0, 1.3, 0.8, 9.0, 1.5, 9.0)  # the scales of kept blocks do not count


def wanted(model: Any, folder: Path, **settings: Any) -> Request:
    model.save_pretrained(folder / "dense")
    source = Model("tiny", "local", str(folder / "dense"), dtype="float32")
    return Request(source, MASK, folder / "out", **{"scales": SCALES, **settings})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_export_computes_what_the_engine_computes(name: str, tmp_path: Path) -> None:
    model = build(name)
    assert "masked and compensated model's" in export(wanted(model, tmp_path)).proof
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.tie_word_embeddings == model.config.tie_word_embeddings


def test_the_engines_form_is_a_factor_on_the_stream(tmp_path: Path) -> None:
    model = build("llama")
    for block in MASK.dropped:
        scale = SCALES[block]
        model.model.layers[block].forward = lambda hidden, *_, scale=scale, **__: hidden * scale
    goal = verify.expected(build("llama"), MASK, SCALES)
    with torch.no_grad():
        assert torch.equal(model(goal.ids, use_cache=False).logits[0], goal.logits)
    plain = verify.expected(build("llama"), MASK)
    assert (plain.logits - goal.logits).norm() > 1e-2 * goal.logits.norm(), "the factors made no difference"


def test_only_the_outputs_of_blocks_after_a_dropped_one_are_changed(tmp_path: Path) -> None:
    export(wanted(model := build("llama"), tmp_path))
    state = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).state_dict()
    changed = set()
    for new, old in enumerate(MASK.kept):
        for name, tensor in model.model.layers[old].state_dict().items():
            if not torch.equal(state[f"model.layers.{new}.{name}"], tensor):
                changed.add((old, name))
    outputs = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
    assert changed == {(block, name) for block in (3, 5) for name in outputs}
    expected = model.model.layers[5].mlp.down_proj.weight / (1.3 * 0.8 * 1.5)
    assert torch.allclose(state["model.layers.2.mlp.down_proj.weight"], expected)
    assert torch.equal(state["model.embed_tokens.weight"], model.model.embed_tokens.weight)


def test_a_wrong_factor_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pruning.export.plan.plan_fold", lambda *given: plan_fold(*given[:-1], [1.0] * N_BLOCKS)
    )
    with pytest.raises(verify.MismatchError, match="its logits differ from those of the masked model"):
        export(wanted(build("llama"), tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_rounds_twice(tmp_path: Path, dtype: str) -> None:
    request = wanted(build("llama"), tmp_path)
    request = Request(
        Model("tiny", "local", request.model.path, dtype=dtype), MASK, request.out, None, SCALES
    )
    assert "compensated model's" in export(request).proof


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("Olmo2Config", {"intermediate_size": 48}, "no norm at the input of block 3 is recognised"),
        (
            "OPTConfig",
            {"do_layer_norm_before": False, "ffn_dim": 48, "word_embed_proj_dim": 32},
            "do not normalise",
        ),
        (
            "Glm4Config",
            {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8},
            "after the sub-layers",
        ),
    ],
)
def test_architectures_that_are_not_understood_are_refused(
    kind: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    width = {"hidden_size": 32, "num_hidden_layers": N_BLOCKS, "num_attention_heads": 4, "vocab_size": 97}
    config = getattr(transformers, kind)(**width, **settings, pad_token_id=0)
    with pytest.raises(InputError, match=message):
        export(wanted(AutoModelForCausalLM.from_config(config), tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ([1.0], "1 scales for a model of 6 blocks"),
        ([1.0, 0.0, -1.0, 1, 1, 1], r"scales of blocks \[1, 2\] are not"),
    ],
)
def test_invalid_factors_are_refused(scales: list[float], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export(wanted(build("llama"), tmp_path, scales=scales))
