"""Temporarily remove units from a model in memory. The result equals the model that an export of the mask would load.

Skipping (`sublayers.masked`) is for searching and works only without a cache. Here the list of blocks, their numbers
and the configuration become those of the smaller model, so the model can generate with a cache. The weights are
shared with the dense model. If only one sub-layer of a block is removed, the modules of this sub-layer are replaced
by modules without weights, and the remaining attention layers get cache layers (`pruned_config.cache_layers`).
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
from pruning.models.blocks import few_tokens, find_blocks
from pruning.models.pruned_config import cache_layers, check_same_blocks, pruned_config, set_kinds
from pruning.models.sublayers import Forward, Sublayer, find_chain

# Attributes that hold the number of a block.
NUMBER = re.compile(r"(layer_idx|layer_index|layer_id|layer_number)$")


def smaller_config(model: Any, mask: Mask) -> Any:
    """The configuration of the model that `blocks_removed` makes.

    Raises InputError, as an export does, if a configuration of this architecture cannot describe these blocks. Raises
    InputError if the model could not generate with a cache, and UnskippableError if blocks have no sub-layers.
    """
    blocks = Mask(mask.n_blocks, mask.gone)
    smaller = pruned_config(model.config, blocks)
    check_same_blocks(model.config, smaller, blocks)
    if mask.as_blocks() is None:
        set_kinds(smaller, cache_layers(model.config, mask)[0])
        with blocks_removed(model, mask, smaller):
            _check_cache(model)
    return smaller


def _check_cache(model: Any) -> None:
    """Raise InputError unless the model's cache counts the tokens that it has seen."""
    ids = few_tokens(model)
    with torch.no_grad():
        output = model(input_ids=ids, use_cache=True)
    # The name of the attribute depends on the release of transformers.
    cache: Any = getattr(output, "cache" if hasattr(output, "cache") else "past_key_values", None)
    seen = cache.get_seq_length() if hasattr(cache, "get_seq_length") else ids.shape[1]
    if seen != ids.shape[1]:
        raise InputError(
            f"a {model.config.model_type} model cannot generate without these parts: its cache counts {seen} tokens "
            f"after {ids.shape[1]}. Remove whole blocks (unit=block), or other parts."
        )


@contextmanager
def blocks_removed(model: Any, mask: Mask, smaller: Any) -> Iterator[None]:
    """Within this context the model has only the kept units; on exit everything is restored."""
    blocks = find_blocks(model)
    path, _, name = blocks.path.rpartition(".")
    kept = [(index, block) for index, block in enumerate(blocks.modules) if index not in mask.gone]
    with ExitStack() as stack:
        layers = {} if mask.as_blocks() is not None else stack.enter_context(_parts_removed(model, mask))
        config = model.config.get_text_config(decoder=True)
        stack.enter_context(_replaced(vars(config), vars(smaller.get_text_config(decoder=True))))
        for position, (index, block) in enumerate(kept):
            for module in block.modules():
                number = layers.get(module, position)
                renumbered = {k: number for k, v in vars(module).items() if NUMBER.match(k) and v == index}
                stack.enter_context(_replaced(vars(module), vars(module) | renumbered))
        parent = model.get_submodule(path)
        stack.callback(setattr, parent, name, getattr(parent, name))
        setattr(parent, name, nn.ModuleList(block for _, block in kept))
        yield


@contextmanager
def _replaced(entries: dict[str, Any], values: Mapping[str, Any]) -> Iterator[None]:
    """Replace all entries of a dictionary, such as the attributes of an object; restore them on exit."""
    saved, new = dict(entries), dict(values)
    entries.clear()
    entries.update(new)
    try:
        yield
    finally:
        entries.clear()
        entries.update(saved)


@contextmanager
def _parts_removed(model: Any, mask: Mask) -> Iterator[Mapping[nn.Module, int]]:
    """Within this context, blocks that lose one sub-layer have only the modules of the other one.

    Yields the cache layer of each module of the remaining attention layers.
    """
    chain = find_chain(model, "sublayer")
    with ExitStack() as stack:
        for unit in mask.dropped:
            if unit // 2 not in mask.gone:
                modules = chain.blocks.modules[unit // 2]._modules
                others = dict(chain.sublayers[unit ^ 1].others)
                hollow = {n: _hollow(m, others[m]) for n, m in modules.items() if m in others}
                stack.enter_context(_replaced(modules, modules | hollow))
        yield _numbers(model.config, mask, chain.sublayers)


def _hollow(module: nn.Module, forward: Forward) -> nn.Module:
    """A module of the same class and attributes as `module`, without weights, whose `forward` is `forward`.

    Some blocks read attributes of their modules, so an empty module of another class would not do.
    """
    hollow = copy.copy(module)
    for registry in ("_parameters", "_buffers", "_modules"):
        vars(hollow)[registry] = {}
    vars(hollow)["forward"] = forward
    vars(hollow)["extra_repr"] = lambda: "without weights"  # the class's own description may need its weights
    return hollow


def _numbers(config: Any, mask: Mask, sublayers: tuple[Sublayer, ...]) -> dict[nn.Module, int]:
    kept = [block for block in range(mask.n_blocks) if block not in mask.gone]
    return {
        module: layer
        for block, layer in zip(kept, cache_layers(config, mask)[1], strict=True)
        if layer is not None
        for module in sublayers[2 * block].main.modules()
    }
