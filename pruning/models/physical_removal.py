"""A model without some of its blocks, in memory and for a while: as an export of the mask would be loaded.

Skipping (`blocks.masked`) is for searching: it knows no cache. Here the list of blocks, their numbers and the
configuration are those of the smaller model, so it generates with a cache; the weights are the dense model's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pruning.core.mask import Mask

NUMBER = re.compile(r"(layer_idx|layer_index|layer_id|layer_number)$")  # what a block calls its own number


def smaller_config(model: Any, mask: Mask) -> Any:
    """The configuration of the model that `removed` makes.

    Raises InputError, as an export does, where an architecture's configuration cannot express these blocks.
    """
    from pruning.models.pruned_config import check_same_blocks, pruned_config

    smaller = pruned_config(model.config, mask)
    check_same_blocks(model.config, smaller, mask)
    return smaller


@contextmanager
def blocks_removed(model: Any, mask: Mask, smaller: Any) -> Iterator[None]:
    """Within this context the model has the kept blocks only. Everything is as before afterwards."""
    from torch import nn

    from pruning.models.blocks import find_blocks

    blocks = find_blocks(model)
    path, _, name = blocks.path.rpartition(".")
    kept = [blocks.modules[index] for index in mask.kept]
    with ExitStack() as stack:
        config = model.config.get_text_config(decoder=True)
        stack.enter_context(_replaced(config, vars(smaller.get_text_config(decoder=True))))
        for position, (index, block) in enumerate(zip(mask.kept, kept, strict=True)):
            for module in block.modules():
                own = {k: position for k, v in vars(module).items() if NUMBER.match(k) and v == index}
                stack.enter_context(_replaced(module, vars(module) | own))
        owner = model.get_submodule(path)
        whole = getattr(owner, name)
        stack.callback(setattr, owner, name, whole)
        setattr(owner, name, nn.ModuleList(kept))
        yield


@contextmanager
def _replaced(owner: Any, values: dict[str, Any]) -> Iterator[None]:
    """Give an object other attributes, past what its class does when one is set, and its own again."""
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
