"""Temporarily remove units from a model in memory. The result equals the mask's exported model after loading.

Skipping (`units.masked`) is for searching and works only without a cache. Here the list of blocks, their numbers
and the configuration become those of the smaller model, so the model can generate with a cache. The weights are
shared with the dense model. If only one sub-layer of a block is removed, its modules are replaced by modules without
weights (`missing_parts.py`), and the cache is arranged for the attentions that are left (`cache_layers.py`).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.models.blocks import IDS, find_blocks, input_device
from pruning.models.pruned_config import cache_layers
from pruning.models.sublayers import Forward, Sublayer, find_sublayers

NUMBER = re.compile(
    r"(layer_idx|layer_index|layer_id|layer_number)$"
)  # attributes that hold the number of a block


def smaller_config(model: Any, mask: Mask) -> Any:
    """The configuration of the model that `blocks_removed` makes.

    Raises InputError, as an export does, if a configuration of this architecture cannot describe these blocks. Raises
    InputError if the model could not generate with a cache, and UnskippableError if blocks have no sub-layers.
    """
    from pruning.models.pruned_config import cache_layers, check_same_blocks, pruned_config, set_kinds

    blocks = Mask(mask.n_blocks, mask.gone)
    smaller = pruned_config(model.config, blocks)
    check_same_blocks(model.config, smaller, blocks)
    if mask.as_blocks() is None:
        set_kinds(smaller, cache_layers(model.config, mask))
        with blocks_removed(model, mask, smaller):
            check_cache(model)
    return smaller


@contextmanager
def blocks_removed(model: Any, mask: Mask, smaller: Any) -> Iterator[None]:
    """Within this context the model has only the kept units; on exit everything is restored."""
    from torch import nn

    from pruning.models.blocks import find_blocks

    blocks = find_blocks(model)
    path, _, name = blocks.path.rpartition(".")
    numbers = [index for index in range(mask.n_blocks) if index not in mask.gone]
    kept = [blocks.modules[index] for index in numbers]
    with ExitStack() as stack:
        attentions = stack.enter_context(parts_removed(model, mask))
        config = model.config.get_text_config(decoder=True)
        stack.enter_context(_replaced(config, vars(smaller.get_text_config(decoder=True))))
        for position, (index, block) in enumerate(zip(numbers, kept, strict=True)):
            for module in block.modules():
                number = attentions.get(module, position)
                renumbered = {k: number for k, v in vars(module).items() if NUMBER.match(k) and v == index}
                stack.enter_context(_replaced(module, vars(module) | renumbered))
        parent = model.get_submodule(path)
        stack.callback(setattr, parent, name, getattr(parent, name))
        setattr(parent, name, nn.ModuleList(kept))
        yield


@contextmanager
def _replaced(owner: Any, values: dict[str, Any]) -> Iterator[None]:
    """Replace all attributes of an object without calling its class's setters; restore the old attributes on exit."""
    attributes = vars(owner)
    saved = dict(attributes)
    values = dict(values)
    attributes.clear()
    attributes.update(values)
    try:
        yield
    finally:
        attributes.clear()
        attributes.update(saved)


# Take one of the two sub-layers out of blocks: its modules give way to modules without weights.


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
