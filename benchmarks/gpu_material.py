"""Models and samples for `gpu_check`. Random ones need no files; a real model is used only if it is found."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruning.calibration.samples import Row, Samples
from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.models import loader
from pruning.models.loader import LanguageModel
from pruning.models.spec import Model, ModelInfo

ONE_BILLION = ("meta-llama/Llama-3.2-1B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-0.6B")  # tried in this order
BLOCKS, VOCABULARY = 12, 4096


def llama(where: torch.device, dtype: torch.dtype, width: int = 64) -> LanguageModel:
    """A random Llama on the device `where`, in the precision `dtype`. Every call returns the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=BLOCKS,
        num_attention_heads=width // 16,
        num_key_value_heads=width // 32,
        initializer_range=0.02 * (1024 / width) ** 0.5,
    )
    module = LlamaForCausalLM(config).to(where, dtype).eval()
    return LanguageModel(module, ModelInfo("random", "random", "0", BLOCKS, str(dtype)[6:], 0))


def windows(count: int, length: int) -> Samples:
    """Windows of random tokens. Their lengths differ slightly."""
    rng = random.Random(count)
    rows = (Row(_tokens(rng, length - n % 4), (1, length - n % 4)) for n in range(count))
    return Samples("text", "random", tuple(rows), 0)


def items(count: int) -> Samples:
    """Random questions with four answers each. The engine packs the answers of a question after its prompt."""
    rng, rows = random.Random(count), []
    for item in range(count):
        prompt = _tokens(rng, 20)
        for choice in range(4):
            ids = prompt + _tokens(rng, 3 + choice)
            rows.append(Row(ids, (len(prompt), len(ids)), item, choice, choice == 0))
    return Samples("items", "random", tuple(rows), 0)


def text(model: Model) -> Samples:
    """Windows of the embedded text."""
    from pruning.calibration.text import Text

    return Text("pydoc", 8, 256, 0).draw(loader.tokenizer(model))


def masks() -> list[Mask]:
    """Masks that share prefixes of various lengths, and the mask of the dense model."""
    last = BLOCKS - 1
    dropped = [(), (0,), (last,), (3, 4), (0, last), (2, 5, 7), (2, 5, 8), (last - 1, last)]
    return [Mask(BLOCKS, chosen) for chosen in dropped]


def losses(forward: Forward, samples: Samples, chosen: Sequence[Mask]) -> np.ndarray[Any, Any]:
    """Log-likelihoods, of shape (masks, rows)."""
    rows = {mask: values for mask, values, _ in forward.loglikelihoods(samples.rows, chosen)}
    return np.array([rows[mask] for mask in chosen])


def weights(given: str | None, where: torch.device) -> Model | None:
    """The model in a given directory, or the first of ONE_BILLION in the hub's cache. Nothing is downloaded."""
    device_map = "auto" if where.type == "cuda" else "cpu"
    if given is not None:
        return Model("given", "local", given, device_map=device_map)
    from huggingface_hub import try_to_load_from_cache

    for name in ONE_BILLION:
        config = try_to_load_from_cache(name, "config.json")
        if isinstance(config, str) and any(Path(config).parent.glob("*.safetensors")):
            return Model("cached", "local", str(Path(config).parent), device_map=device_map)
    return None


def _tokens(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(3, VOCABULARY) for _ in range(count))
