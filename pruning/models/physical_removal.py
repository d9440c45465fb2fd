"""Temporarily remove units from a model in memory. The result equals the mask's exported model after loading.

Skipping (`units.masked`) is for searching and works only without a cache. Here the list of blocks, their numbers
and the configuration become those of the smaller model, so the model can generate with a cache. The weights are
shared with the dense model. If only one sub-layer of a block is removed, its modules are replaced by modules without
weights (`missing_parts.py`), and the cache is arranged for the attentions that are left (`cache_layers.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pruning.core.mask import Mask

NUMBER = re.compile(
    r"(layer_idx|layer_index|layer_id|layer_number)$"
)  # attributes that hold the number of a block


def smaller_config(model: Any, mask: Mask) -> Any:
    """The configuration of the model that `blocks_removed` makes.

    Raises InputError, as an export does, if a configuration of this architecture cannot describe these blocks. Raises
    InputError if the model could not generate with a cache, and UnskippableError if blocks have no sub-layers.
    """
    from pruning.models.cache_layers import cache_layers, set_kinds
    from pruning.models.missing_parts import check_cache
    from pruning.models.pruned_config import check_same_blocks, pruned_config

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

    from pruning.models.block_probe import find_blocks
    from pruning.models.missing_parts import parts_removed

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
