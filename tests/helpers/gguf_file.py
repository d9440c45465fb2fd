"""A tiny quantised Llama in a GGUF file, tokenizer included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH, N_BLOCKS, HEADS, VOCABULARY = 32, 6, 4, 64
# GGUF's name of a tensor and its shape
MATRICES = {
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH, WIDTH),
    "attn_v": (WIDTH, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (64, WIDTH),
    "ffn_up": (64, WIDTH),
    "ffn_down": (WIDTH, 64),
}


def write(path: Path, seed: int = 0) -> None:
    """Write the file: random weights in Q8_0, norms in float32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(N_BLOCKS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(VOCABULARY)
    _tokenizer(writer)
    rng = np.random.default_rng(seed)
    _matrix(writer, "token_embd.weight", rng.normal(size=(VOCABULARY, WIDTH)))
    for block in range(N_BLOCKS):
        for name, shape in MATRICES.items():
            _matrix(writer, f"blk.{block}.{name}.weight", rng.normal(0, 0.3, shape))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{block}.{name}.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _matrix(writer: Any, name: str, values: Any) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(name, gguf.quants.quantize(values.astype(np.float32), kind), raw_dtype=kind)


def _tokenizer(writer: Any) -> None:
    tokens = ["<unk>", "<s>", "</s>", *(chr(ord("A") + i) for i in range(VOCABULARY - 4)), "AB"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (VOCABULARY - 3))
    writer.add_token_merges(["A B"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
