"""Tiny random models of many architectures, and models with blocks physically removed, which skipping must equal."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
import transformers

N_BLOCKS = 6

# By architecture: the class of the configuration, and its settings. AutoModelForCausalLM chooses the model's class.
WIDTH = {"hidden_size": 32, "num_hidden_layers": N_BLOCKS, "num_attention_heads": 4, "vocab_size": 97}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = WIDTH | {"intermediate_size": 48, "num_key_value_heads": 2}
HYBRID = ["sliding_attention", "full_attention"] * (N_BLOCKS // 2)

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", LLAMA),
    "mistral": ("MistralConfig", LLAMA | {"sliding_window": 5}),
    "qwen3": ("Qwen3Config", LLAMA | {"head_dim": 8}),
    "gemma3": ("Gemma3TextConfig", LLAMA | {"head_dim": 8, "sliding_window": 5, "layer_types": HYBRID}),
    "gpt_neox": ("GPTNeoXConfig", WIDTH | {"intermediate_size": 48}),
    "gpt2": (
        "GPT2Config",
        {"n_embd": 32, "n_layer": N_BLOCKS, "n_head": 4, "vocab_size": 97, "n_positions": 64},
    ),
    "opt": ("OPTConfig", WIDTH | {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}),
    "phi": ("PhiConfig", WIDTH | {"intermediate_size": 48}),
    "mixtral": ("MixtralConfig", LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        LLAMA
        | {"head_dim": 8, "num_experts": N_BLOCKS, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
}

# Bloom's children add the state themselves, and Falcon H1 has attention beside Mamba: their blocks have no two parts.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": N_BLOCKS, "n_head": 4, "vocab_size": 97}),
    "falcon": ("FalconConfig", WIDTH | {"parallel_attn": False, "bias": True}),
    "falcon_h1": (
        "FalconH1Config",
        LLAMA | {"head_dim": 8, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8}
        | {"mamba_d_state": 8, "mamba_n_groups": 1},
    ),
}  # fmt: skip


def random_model(kind: str, **settings: Any) -> Any:
    """A random model in evaluation mode in which every block matters; `kind` names the class of its configuration."""
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**{"initializer_range": 0.2, **settings})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def tiny_llama(**changes: Any) -> Any:
    """A random Llama; `changes` are settings of its configuration."""
    settings = LLAMA | {"vocab_size": 512, "intermediate_size": 64, "initializer_range": 0.3}
    return random_model("LlamaConfig", **{**settings, "bos_token_id": 0, "eos_token_id": 0, **changes})


def saved_llama(folder: Path, tokenizer: Any, **changes: Any) -> Path:
    """Write a tiny Llama and its tokenizer to a folder, in the form that `model=local` reads; returns the folder."""
    tiny_llama(**changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build(name: str) -> Any:
    """A random model of an architecture."""
    kind, settings = (ARCHITECTURES | OTHERS)[name]
    return random_model(kind, **settings, **TOKENS)


def without(model: Any, dropped: tuple[int, ...]) -> Any:
    """A new, smaller model built from a filtered configuration and a renumbered copy of the weights."""
    config = copy.deepcopy(model.config)
    kept = [i for i in range(config.num_hidden_layers) if i not in dropped]
    layer_types = vars(config).get("layer_types")
    config.num_hidden_layers = len(kept)
    if layer_types is not None:
        config.layer_types = [layer_types[i] for i in kept]
    smaller = transformers.AutoModelForCausalLM.from_config(config).eval()
    smaller.load_state_dict(dict(_renumbered(model.state_dict(), kept)))
    return smaller


PARALLEL = ("gpt_neox", "phi")  # attention and MLP read the same state, so they do not form a chain
SEQUENTIAL = [*(name for name in ARCHITECTURES if name not in PARALLEL), "falcon"]
WIDE = ("mixtral", "qwen3_moe")  # they compute in float32 even if the model is in float64
# Patterns of the last weights and biases of attention and of the MLP, whose output is added to the hidden state.
LAST = {
    "attention": r"(o_proj|attn\.c_proj|self_attention\.dense|attn\.out_proj)\.(weight|bias)$",
    "mlp": r"(down_proj|fc2|mlp\.c_proj|dense_4h_to_h)(\.weight|\.bias)?$",
}


def zeroed(model: Any, units: tuple[int, ...]) -> Any:
    """A copy of a model in which the output weights of `units` are zeros; unit 2i is the attention of block i."""
    changed = copy.deepcopy(model)
    found = set()
    with torch.no_grad():
        for name, tensor in changed.state_dict().items():
            block = re.match(r".*?\.(?:layers|h)\.(\d+)\.", name)
            for kind, pattern in enumerate(LAST.values()):
                if block and (unit := 2 * int(block[1]) + kind) in units and re.search(pattern, name):
                    tensor.zero_()
                    found.add(unit)
    assert found == set(units), "the names of the last weights are not known"
    return changed


def _renumbered(weights: dict[str, Any], kept: list[int]) -> Any:
    for name, tensor in weights.items():
        found = re.match(r"(.*?\.(?:layers|h)\.)(\d+)(\..*)", name)
        if not found:
            yield name, tensor
        elif int(found[2]) in kept:
            yield f"{found[1]}{kept.index(int(found[2]))}{found[3]}", tensor


IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 79], [2, 71, 82, 81, 82, 84, 5, 9, 4, 5]])


def logits(model: Any, ids: torch.Tensor = IDS, **options: Any) -> torch.Tensor:
    """The logits (B, T, V) of token ids, without a cache."""
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=ids, **{"use_cache": False, **options}).logits
    return result


def attributes(model: Any) -> list[dict[str, Any]]:
    """The attributes of all modules, to compare them before and after a context."""
    return [dict(vars(module)) for module in model.modules()]
