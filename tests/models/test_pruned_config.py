from __future__ import annotations

from typing import Any

import pytest
import transformers

from pruning.core.errors import InputError, UnskippableError
from pruning.core.mask import Mask
from pruning.models.pruned_config import blocks_of, check_same_blocks, pruned_config, skeleton
from tests.helpers.architectures import N_BLOCKS

SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "vocab_size": 97,
    "intermediate_size": 48,
    "pad_token_id": 0,
}
LLAMA = SMALL | {"num_key_value_heads": 2, "num_hidden_layers": N_BLOCKS}
MOE = LLAMA | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MASK = Mask(N_BLOCKS, (1, 4))


def cut(kind: str, **settings: Any) -> Any:
    config = getattr(transformers, kind)(**settings)
    new = pruned_config(config, MASK)
    check_same_blocks(config, new, MASK)
    assert new.num_hidden_layers == 4
    assert config.num_hidden_layers == N_BLOCKS
    return new


S, F = "sliding_attention", "full_attention"
DEEPSEEK = LLAMA | MOE | {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
DEEPSEEK |= {"v_head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
GEMMA, SLIDING = LLAMA | {"head_dim": 8}, LLAMA | {"use_sliding_window": True, "sliding_window": 4}


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),  # blocks 0 2 3 5 are kept
    [
        ("Gemma3TextConfig", GEMMA | {"layer_types": [S, F, S] * 2}, {"layer_types": [S, S, S, S]}),
        ("Gemma3TextConfig", GEMMA | {"layer_types": [F, F, S, S, F, F]}, {"layer_types": [F, S, S, F]}),
        ("Gemma3TextConfig", GEMMA | {"sliding_window_pattern": 2}, {"layer_types": [S, S, F, F]}),
        ("Qwen2Config", SLIDING | {"max_window_layers": 3}, {"layer_types": [F, F, S, S], "max_window_layers": 2}),
        (
            "SmolLM3Config",
            LLAMA | {"no_rope_layers": [1, 0, 1, 1, 0, 0], "eos_token_id": [1, 2, 3, 4, 5, 6]},
            {"no_rope_layers": [1, 1, 1, 0], "eos_token_id": [1, 2, 3, 4, 5, 6]},
        ),
        ("Qwen3MoeConfig", MOE | {"mlp_only_layers": [0, 1, 5]}, {"mlp_only_layers": [0, 3]}),
        ("DeepseekV3Config", DEEPSEEK | {"first_k_dense_replace": 3}, {"first_k_dense_replace": 2}),
    ],
)  # fmt: skip
def test_settings_per_block_are_filtered_and_renumbered(
    kind: str, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    config = cut(kind, **settings)
    assert {name: getattr(config, name) for name in expected} == expected
    assert "_sliding_window_pattern" not in vars(config)


def test_gpt_neo_alternates_by_a_nested_list() -> None:
    settings = {"hidden_size": 32, "num_heads": 4, "vocab_size": 97, "num_layers": N_BLOCKS}
    config = cut("GPTNeoConfig", **settings, attention_types=[[["global", "local"], 3]])
    assert config.attention_layers == ["global", "global", "local", "local"]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            "GPT2Config",
            {"n_embd": 32, "n_layer": 6, "n_head": 4, "scale_attn_by_inverse_layer_idx": True},
            r"block 2 .*block 1: .*attn\.scaling ",
        ),
        ("DiffLlamaConfig", LLAMA, r"self_attn\.lambda_init "),
        ("Qwen3MoeConfig", MOE | {"decoder_sparse_step": 2}, "mlp class"),
    ],
    ids=["gpt2", "diffllama", "sparse step"],
)
def test_what_cannot_be_expressed_is_refused(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cut(kind, **settings)


def test_a_changed_flag_that_looks_like_a_block_number_is_detected() -> None:
    config = transformers.SmolLM3Config(**LLAMA, no_rope_layers=[0, 1, 1, 1, 1, 1])
    wrong = pruned_config(config, Mask(N_BLOCKS, (0,)))
    wrong.no_rope_layers = [0, 1, 1, 1, 1]  # block 1 becomes block 0, and its flag 1 becomes 0
    with pytest.raises(InputError, match=r"self_attn\.use_rope .* 1 to 0"):
        check_same_blocks(config, wrong, Mask(N_BLOCKS, (0,)))


def test_blocks_are_found_without_weights() -> None:
    path, blocks = blocks_of(skeleton(transformers.LlamaConfig(**LLAMA)), N_BLOCKS)
    assert path == "model.layers"
    assert len(blocks) == N_BLOCKS
    with pytest.raises(UnskippableError, match="5 blocks"):
        blocks_of(skeleton(transformers.LlamaConfig(**LLAMA)), 5)
