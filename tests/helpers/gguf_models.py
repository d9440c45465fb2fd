"""Tiny random models of several architectures as GGUF files, written by the `gguf` package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

VOCABULARY, N_BLOCKS, WIDTH, HEADS, KV, HEAD, INNER, WINDOW = 64, 6, 64, 4, 2, 16, 96, 8
# transformers does not read these values from a GGUF file, so the models must have its default values. The default
# attention scale of Gemma is 1 / sqrt(256).
QWEN3_HEAD, GEMMA_HEAD, EXPERT_INNER, GEMMA3_BASE = 128, 256, 768, 1e6
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0")
# Weights of a block: name in GGUF, and shape. Like llama.cpp's converter, keep norms and biases in float32.
MLP = {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
EXPERTS = {
    "ffn_gate_inp": (4, WIDTH),
    "ffn_gate_exps": (4, EXPERT_INNER, WIDTH),
    "ffn_up_exps": (4, EXPERT_INNER, WIDTH),
    "ffn_down_exps": (4, WIDTH, EXPERT_INNER),
}


def _attention(head: int) -> dict[str, tuple[int, ...]]:
    return {
        "attn_q": (HEADS * head, WIDTH),
        "attn_k": (KV * head, WIDTH),
        "attn_v": (KV * head, WIDTH),
        "attn_output": (WIDTH, HEADS * head),
    }


ATTENTION = _attention(HEAD)
QK = ("attn_q_norm", "attn_k_norm")
SANDWICH = ("post_attention_norm", "post_ffw_norm")
# For an architecture: its weights, the widths of a block's norms, those of its biases, and its own settings.
Kind = tuple[dict[str, tuple[int, ...]], dict[str, int], dict[str, int], Callable[[Any], None] | None]
NORMS = {"attn_norm": WIDTH, "ffn_norm": WIDTH}


def _gemma3(writer: Any) -> None:
    writer.add_sliding_window(WINDOW)
    writer.add_rope_freq_base(GEMMA3_BASE)


def _gemma2(writer: Any) -> None:
    writer.add_sliding_window(WINDOW)
    writer.add_attn_logit_softcapping(50.0)
    writer.add_final_logit_softcapping(30.0)


def _experts(writer: Any) -> None:
    writer.add_expert_count(4)
    writer.add_expert_used_count(2)
    writer.add_expert_feed_forward_length(EXPERT_INNER)


BIASES = {"attn_q": HEADS * HEAD, "attn_k": KV * HEAD, "attn_v": KV * HEAD}
GEMMA, GEMMA_NORMS = _attention(GEMMA_HEAD) | MLP, NORMS | dict.fromkeys(SANDWICH, WIDTH)
KINDS: dict[str, Kind] = {
    "llama": (ATTENTION | MLP, NORMS, {}, None),
    "qwen2": (ATTENTION | MLP, NORMS, BIASES, None),
    "qwen3": (_attention(QWEN3_HEAD) | MLP, NORMS | dict.fromkeys(QK, QWEN3_HEAD), {}, None),
    "qwen3moe": (ATTENTION | EXPERTS, NORMS | dict.fromkeys(QK, HEAD), {}, _experts),
    "gemma2": (GEMMA, GEMMA_NORMS, {}, _gemma2),
    "gemma3": (GEMMA, GEMMA_NORMS | dict.fromkeys(QK, GEMMA_HEAD), {}, _gemma3),
}


def write(
    path: Path,
    kind: str = "llama",
    type_: str = "F32",
    extra: Callable[[Any], None] | None = None,
    n_blocks: int = N_BLOCKS,
    seed: int = 0,
    head: tuple[str, float] | None = None,
) -> Path:
    """Write a model to the file `path`. `type_` is the type of its matrices; `extra` may add keys to the writer.

    `head` is the type of an output layer, and how far it is from the embedding: 0 makes it a copy.
    """
    weights, norms, biases, own = KINDS[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, kind)
    _settings(writer, n_blocks, weights["attn_v"][0] // KV)
    for more in (own, extra):
        if more is not None:
            more(writer)
    rng = np.random.default_rng(seed)
    embedding = rng.normal(0, 0.5, (VOCABULARY, WIDTH))
    _matrix(writer, "token_embd", embedding, type_)
    if head is not None:
        other = np.random.default_rng(seed + 1).normal(0, 0.5, embedding.shape)
        _matrix(writer, "output", embedding + head[1] * other, head[0])
    for block in range(n_blocks):
        for name, shape in weights.items():
            kept = "inp" in name  # a router stays in float32
            _matrix(writer, f"blk.{block}.{name}", rng.normal(0, 0.2, shape), "F32" if kept else type_)
        for name, width in norms.items():
            _floats(writer, f"blk.{block}.{name}.weight", 1 + rng.normal(0, 0.1, width))
        for name, width in biases.items():
            _floats(writer, f"blk.{block}.{name}.bias", rng.normal(0, 0.1, width))
    _floats(writer, "output_norm.weight", 1 + rng.normal(0, 0.1, WIDTH))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _settings(writer: Any, n_blocks: int, head: int) -> None:
    numbers = {"block_count": n_blocks, "context_length": 128, "embedding_length": WIDTH}
    numbers |= {"feed_forward_length": INNER, "head_count": HEADS, "head_count_kv": KV, "key_length": head}
    numbers |= {"value_length": head, "rope_dimension_count": head, "vocab_size": VOCABULARY}
    for name, number in numbers.items():
        getattr(writer, f"add_{name}")(number)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = ["<unk>", "<s>", "</s>", *(chr(ord("A") + i) for i in range(VOCABULARY - 4)), "AB"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (VOCABULARY - 3))
    writer.add_token_merges(["A B"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _matrix(writer: Any, name: str, values: Any, type_: str) -> None:
    kind = gguf.GGMLQuantizationType[type_]
    stored = gguf.quants.quantize(values.astype(np.float32), kind)
    writer.add_tensor(f"{name}.weight", stored, raw_dtype=kind)


def _floats(writer: Any, name: str, values: Any) -> None:
    writer.add_tensor(name, values.astype(np.float32))
