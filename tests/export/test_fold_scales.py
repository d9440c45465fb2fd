"""Compensation folded into weights equals the engine's form, a factor on the residual stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from pruning.core.errors import InputError, MismatchError
from pruning.core.mask import Mask
from pruning.export import plan, verify
from pruning.export.pipeline import export
from tests.helpers.architectures import ARCHITECTURES, N_BLOCKS, build
from tests.helpers.exports import changed_tensors, load, saved, wanted

MASK = Mask(N_BLOCKS, (1, 2, 4))
SCALES = (9.0, 1.3, 0.8, 9.0, 1.5, 9.0)  # the scales of kept blocks do not count


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_export_computes_what_the_engine_computes(name: str, tmp_path: Path) -> None:
    model, dense = saved(name, tmp_path)
    assert "masked and compensated model's" in export(wanted(dense, MASK, scales=SCALES)).proof
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.tie_word_embeddings == model.config.tie_word_embeddings


def test_the_engines_form_is_a_factor_on_the_stream() -> None:
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
    model, dense = saved("llama", tmp_path)
    export(wanted(dense, MASK, scales=SCALES))
    state = load(tmp_path / "out", dtype=torch.float32).state_dict()
    outputs = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
    assert changed_tensors(model, state, MASK) == {(block, name) for block in (3, 5) for name in outputs}
    expected = model.model.layers[5].mlp.down_proj.weight / (1.3 * 0.8 * 1.5)
    assert torch.allclose(state["model.layers.2.mlp.down_proj.weight"], expected)
    assert torch.equal(state["model.embed_tokens.weight"], model.model.embed_tokens.weight)


def test_a_wrong_factor_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fold = plan.plan_fold
    monkeypatch.setattr(plan, "plan_fold", lambda *given: fold(*given[:-1], [1.0] * N_BLOCKS))
    with pytest.raises(MismatchError, match="its logits differ"):
        export(wanted(saved("llama", tmp_path)[1], MASK, scales=SCALES))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_rounds_twice(tmp_path: Path, dtype: str) -> None:
    request = wanted(saved("llama", tmp_path)[1], MASK, dtype=dtype, scales=SCALES)
    assert "compensated model's" in export(request).proof


WIDTH = {"hidden_size": 32, "num_hidden_layers": N_BLOCKS, "num_attention_heads": 4, "vocab_size": 97}
NOT_UNDERSTOOD: dict[str, tuple[dict[str, Any], str]] = {
    "Olmo2Config": ({"intermediate_size": 48}, "input of block 3"),
    "OPTConfig": ({"do_layer_norm_before": False, "ffn_dim": 48, "word_embed_proj_dim": 32}, "do_layer_norm"),
    "Glm4Config": (
        {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8},
        "after the sub-layers",
    ),
}


@pytest.mark.parametrize("kind", NOT_UNDERSTOOD)
def test_architectures_that_are_not_understood_are_refused(kind: str, tmp_path: Path) -> None:
    settings, message = NOT_UNDERSTOOD[kind]
    config = getattr(transformers, kind)(**WIDTH, **settings, pad_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "dense")
    with pytest.raises(InputError, match=message):
        export(wanted(tmp_path / "dense", MASK, scales=SCALES))
    assert not (tmp_path / "out").exists()
