"""Take one of the two sub-layers out of blocks: its modules give way to modules without weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.models.block_probe import find_blocks, input_device
from pruning.models.cache_layers import cache_layers
from pruning.models.causality import IDS
from pruning.models.sublayers import Forward, Sublayer, find_sublayers


@contextmanager
def parts_removed(model: Any, mask: Mask) -> Iterator[Mapping[nn.Module, int]]:
    """Within this context, blocks that lose one sub-layer have only the modules of the other one.

    Yields the cache layer of each attention that is left, for all modules of the attention; empty if no block loses
    only one sub-layer.
    """
    if mask.as_blocks() is not None:
        yield {}
        return
    blocks, sublayers = find_blocks(model).modules, find_sublayers(model)
    saved: list[tuple[dict[str, nn.Module | None], str, nn.Module]] = []
    try:
        for unit in mask.dropped:
            if unit // 2 not in mask.gone:
                _replace_modules(blocks[unit // 2], sublayers[unit ^ 1], saved)
        yield _numbers(model.config, mask, sublayers)
    finally:
        for owner, name, module in saved:
            owner[name] = module


def _replace_modules(
    block: nn.Module, kept: Sublayer, saved: list[tuple[dict[str, nn.Module | None], str, nn.Module]]
) -> None:
    """Replace the modules of a block that do not belong to the kept sub-layer; `saved` says how to undo it."""
    others = dict(kept.others)
    for name, module in list(block._modules.items()):
        if module in others:
            block._modules[name] = _hollow(module, others[module])
            saved.append((block._modules, name, module))


def _hollow(module: nn.Module, forward: Forward) -> nn.Module:
    """A module of the same class and attributes, without weights and with another method.

    Some blocks read attributes of their modules, so an empty module of another class would not do.
    """
    hollow = copy.copy(module)
    for registry in ("_parameters", "_buffers", "_modules"):
        vars(hollow)[registry] = {}
    vars(hollow)["forward"] = forward
    vars(hollow)["extra_repr"] = _described  # the class's own description may need its weights
    return hollow


def _described() -> str:
    return "without weights"


def _numbers(config: Any, mask: Mask, sublayers: tuple[Sublayer, ...]) -> dict[nn.Module, int]:
    kept = [block for block in range(mask.n_blocks) if block not in mask.gone]
    layers = cache_layers(config, mask).layers
    return {
        module: layer
        for block, layer in zip(kept, layers, strict=True)
        if layer is not None
        for child in sublayers[2 * block].children
        for module in child.modules()
    }


def check_cache(model: Any) -> None:
    """Raise InputError unless the model's cache counts the tokens that it has seen."""
    ids = torch.tensor(IDS, device=input_device(model))
    with torch.no_grad():
        output = model(input_ids=ids, use_cache=True)
    name = (
        "cache" if hasattr(output, "cache") else "past_key_values"
    )  # the name depends on transformers' release
    cache: Any = getattr(output, name, None)
    seen = cache.get_seq_length() if hasattr(cache, "get_seq_length") else ids.shape[1]
    if seen != ids.shape[1]:
        raise InputError(
            f"a {model.config.model_type} model cannot generate without these parts: its cache counts {seen} tokens "
            f"after {ids.shape[1]}. Remove whole blocks (unit=block), or other parts."
        )
