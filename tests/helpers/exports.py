"""Requests for exports of tiny models, and checks of the written models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from pruning.core.mask import Mask
from pruning.export.request import Request
from pruning.models.handle import Model
from tests.helpers.architectures import N_BLOCKS, build

EQUAL = "equal bit for bit"  # in the proof of an export whose logits are those of the masked model
IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 79]])


def wanted(path: Path, mask: Mask | tuple[int, ...], **settings: Any) -> Request:
    """A request to export the folder or GGUF file `path` to `out` or `out.gguf` beside it."""
    model = Model("tiny", "local", str(path), dtype=settings.pop("dtype", "float32"))
    chosen = mask if isinstance(mask, Mask) else Mask(N_BLOCKS, mask)
    return Request(model, chosen, **{"out": path.with_name(f"out{path.suffix}"), **settings})


def saved(name: str, folder: Path) -> tuple[Any, Path]:
    """Build a tiny model of an architecture and save it in `dense` below `folder`; returns the model and the path."""
    model = build(name)
    model.save_pretrained(folder / "dense")
    return model, folder / "dense"


def load(folder: Path, **options: Any) -> Any:
    """A model as a user loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def caches(model: Any) -> bool:
    """Whether a model generates the same tokens with and without its cache."""
    options = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 6, "do_sample": False}
    first, second = (model.generate(input_ids=IDS, **options, use_cache=use) for use in (True, False))
    return torch.equal(first, second)


def changed_tensors(model: Any, state: dict[str, torch.Tensor], mask: Mask) -> set[tuple[int, str]]:
    """The tensors, as (number of the dense block, name), in which a written Llama differs from the dense model."""
    kept = [block for block in range(N_BLOCKS) if block not in mask.gone]
    return {
        (old, name)
        for new, old in enumerate(kept)
        for name, tensor in model.model.layers[old].state_dict().items()
        if not torch.equal(state[f"model.layers.{new}.{name}"], tensor)
    }
