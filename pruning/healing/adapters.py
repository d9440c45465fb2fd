"""LoRA adapters on all linear layers of the blocks, made and merged by the package peft."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from pruning.core.errors import InputError
from pruning.healing.settings_check import check_peft
from pruning.healing.smaller import SmallerModel
from pruning.models.block_probe import find_blocks

ADAPTER = "heal"


def linear_layers(smaller: SmallerModel) -> list[str]:
    """The names of all linear layers of the blocks, found by their class: `Linear`, or GPT-2's transposed `Conv1D`.

    Raises InputError if there are none.
    """
    from transformers.pytorch_utils import Conv1D

    module = smaller.model.module
    path = f"{find_blocks(module).path}."
    names = [
        name
        for name, one in module.named_modules()
        if name.startswith(path) and isinstance(one, nn.Linear | Conv1D)
    ]
    if not names:
        raise InputError(
            f"the blocks of {type(module).__name__} have no linear layers, so there is nothing for adapters to "
            "adapt: train all weights with heal=full."
        )
    return names


def add_adapters(smaller: SmallerModel, rank: int, alpha: float, seed: int) -> list[nn.Parameter]:
    """Put adapters into a model, in place; returns their weights. At first they change nothing."""
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model

    names = linear_layers(smaller)
    module = smaller.model.module
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")  # peft sets it for GPT-2's layers
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0, bias="none")
        inject_adapter_in_model(config, module, ADAPTER)
    return [
        weight for name, weight in module.named_parameters() if "lora_" in name.rpartition(f".{ADAPTER}")[0]
    ]


def merge_adapters(smaller: SmallerModel) -> dict[str, Tensor]:
    """Add each adapter to its layer's weight and take it out, in place; returns the changed weights by dense name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    module = smaller.model.module
    layers = [(name, one) for name, one in module.named_modules() if isinstance(one, BaseTunerLayer)]
    changed = {id(_base(layer).weight) for _, layer in layers}
    for name, layer in layers:
        layer.merge()
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, _base(layer))
    return {
        name: weight.detach() for name, weight in smaller.block_weights().items() if id(weight) in changed
    }


def _base(layer: Any) -> Any:
    return layer.get_base_layer()
