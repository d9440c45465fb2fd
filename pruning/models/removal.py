"""Temporarily remove units from a model in memory. The model then equals one loaded from the mask's export.

Skipping (`sublayers.masked`) works only without a cache. Here the list of blocks, their numbers and the
configuration become those of the smaller model, so the model can generate with a cache. If only one sub-layer
of a block is removed, the sub-layer's modules are replaced by modules without weights.
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
from pruning.models.blocks import ROUNDING, few_tokens, find_blocks, hidden_state
from pruning.models.pruned_config import check_same_blocks, pruned_config
from pruning.models.sublayers import CACHES, Forward, find_chain

# Attributes whose value is a block's number.
NUMBER = re.compile(r"(layer_idx|layer_index|layer_id|layer_number)$")


def smaller_config(model: Any, mask: Mask) -> Any:
    """The configuration of the model that `blocks_removed` makes.

    Raises InputError if no configuration of this architecture fits the kept blocks, or if the model cannot
    generate with a cache. Raises UnskippableError if the mask is over sub-layers and blocks have none.
    """
    blocks = Mask(mask.n_blocks, mask.gone)
    smaller = pruned_config(model.config, blocks)
    check_same_blocks(model.config, smaller, blocks)
    if mask.as_blocks() is None:
        with blocks_removed(model, mask, smaller):
            _check_cache(model)
    return smaller


def _check_cache(model: Any) -> None:
    """Raise InputError unless generating with a cache gives the same logits as a pass without a cache."""
    ids = few_tokens(model)
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits[:, -1]
        begun = model(input_ids=ids[:, :-1], use_cache=True)
        name = next((name for name in CACHES if getattr(begun, name, None) is not None), None)
        cache = {} if name is None else {name: begun[name]}
        step = model(input_ids=ids[:, -1:], use_cache=True, **cache).logits[:, -1] if cache else whole
    if not (step - whole).abs().max() <= ROUNDING * whole.abs().max():
        raise InputError(
            f"a {model.config.model_type} model cannot generate without these parts, because its cache needs them. "
            "Remove whole blocks (unit=block), or other parts."
        )


@contextmanager
def blocks_removed(model: Any, mask: Mask, smaller: Any) -> Iterator[None]:
    """Within this context, the model has only the kept units; on exit, everything is restored."""
    blocks = find_blocks(model)
    path, _, name = blocks.path.rpartition(".")
    kept = [block for block in range(mask.n_blocks) if block not in mask.gone]
    sublayers = () if mask.as_blocks() is not None else find_chain(model, "sublayer").sublayers
    with ExitStack() as stack:
        for unit in mask.dropped if sublayers else ():
            if unit // 2 in kept:
                off = dict(sublayers[unit ^ 1].others)
                if unit % 2 == 0:
                    main = sublayers[unit].main
                    off[main] = _counting(off[main], kept.index(unit // 2))
                modules = blocks.modules[unit // 2]._modules
                hollow = {n: _hollow(m, off[m]) for n, m in modules.items() if m in off}
                stack.enter_context(_replaced(modules, modules | hollow))
        config = model.config.get_text_config(decoder=True)
        stack.enter_context(_replaced(vars(config), vars(smaller.get_text_config(decoder=True))))
        for position, index in enumerate(kept):
            for module in blocks.modules[index].modules():
                own = {k: position for k, v in vars(module).items() if NUMBER.match(k) and v == index}
                stack.enter_context(_replaced(vars(module), vars(module) | own))
        parent = model.get_submodule(path)
        stack.callback(setattr, parent, name, getattr(parent, name))
        setattr(parent, name, nn.ModuleList(blocks.modules[index] for index in kept))
        yield


@contextmanager
def _replaced(entries: dict[str, Any], values: Mapping[str, Any]) -> Iterator[None]:
    """Replace the entries of a dictionary (such as an object's attributes) by `values`; undo this on exit."""
    saved, new = dict(entries), dict(values)
    entries.clear()
    entries.update(new)
    try:
        yield
    finally:
        entries.clear()
        entries.update(saved)


def _hollow(module: nn.Module, forward: Forward) -> nn.Module:
    """A module without weights, with the class and attributes of `module` and the given `forward` method.

    Some blocks read attributes of their modules, so a module of another class would not work.
    """
    hollow = copy.copy(module)
    for registry in ("_parameters", "_buffers", "_modules"):
        vars(hollow)[registry] = {}
    vars(hollow)["forward"] = forward
    vars(hollow)["extra_repr"] = lambda: "without weights"  # the class's own description may need its weights
    return hollow


def _counting(forward: Forward, layer: int) -> Forward:
    """A `forward` for removed attention, which also adds one zero per token to the cache's layer `layer`.

    The zeros count tokens: a model reads cached length and attention-mask sizes from each kind's first cache layer.
    """
    from transformers import Cache
    from transformers.cache_utils import CacheLayerMixin

    def counted(*args: Any, **kwargs: Any) -> Any:
        hidden = hidden_state(args, kwargs)
        assert hidden is not None
        for cache in (value for value in (*args, *kwargs.values()) if isinstance(value, Cache)):
            if all(isinstance(one, CacheLayerMixin) for one in cache.layers[layer : layer + 1]):  # not Mamba
                zeros = hidden.new_zeros(len(hidden), 1, hidden.shape[1], 1)
                cache.update(zeros, zeros, layer)
        return forward(*args, **kwargs)

    return counted
