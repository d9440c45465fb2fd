"""Forward passes in float32 with the weights of a model in half precision."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from pruning.distributed import collectives
from pruning.engine.device import devices, free_memory
from pruning.engine.forward import Forward
from pruning.models.loader import LanguageModel

HALVES = (torch.bfloat16, torch.float16)
BYTES = 6  # free bytes that are needed per weight: 4 for the copy, and 2 for the passes through it


def in_float32(forward: Forward) -> Forward | None:
    """The same forward passes through a float32 copy of the model; they add to the same cost.

    The copy has the rounded weights of the model, so only the rounding of products and sums differs. Returns None if
    the model is not in half precision, or if some rank has no memory for a copy on the model's device.
    """
    model = forward.model
    if model.module.dtype not in HALVES or collectives.all_max(float(not _fits(model))):
        return None
    module = copy.deepcopy(model.module).float()
    single = LanguageModel(module, replace(model.info, dtype="float32"))
    return Forward(
        single,
        forward.batch_tokens,
        forward.memory,
        forward.patience,
        forward.merge,
        forward.scales,
        forward.cost,
    )


def _fits(model: LanguageModel) -> bool:
    parameters = list(model.module.parameters())
    if any(p.device.type == "meta" for p in parameters) or len(devices(model.module)) > 1:
        return False
    # Ranks of one machine copy the model at the same time.
    copies = collectives.world_size() if model.device.type == "cpu" else 1
    return bool(free_memory(model.module) > copies * BYTES * sum(p.numel() for p in parameters))
