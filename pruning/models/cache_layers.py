"""Give every attention that is left a layer of the KV cache, if some blocks have no attention.

The cache of transformers has one layer per block. Its class follows from the kind of the block (`layer_types`). A
block without attention leaves its layer empty, and three rules of transformers (masking_utils.py, cache_utils.py)
must not meet an empty layer:

- the number of cached tokens is that of the first layer of an attention;
- the size of a mask is that of the first layer of the same kind;
- whether a recurrent state exists is asked of the last layer of a recurrent mixer.

A block without attention uses no mask, so its kind is free. It takes the kind of the attention before it. Blocks
before the first attention take the kind of this attention, which moves into the first of their layers. Then no rule
meets an empty layer, the number of layers is that of the blocks, and each block gets the mask of its own kind.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pruning.core.errors import InputError
from pruning.core.mask import Mask

PLAIN = "full_attention"  # the kind of every block if the configuration lists no kinds
# Kinds with keys and values for each token and with nothing else, so that an empty layer of theirs does no harm.
ATTENDING = ("full_attention", "sliding_attention", "chunked_attention")


@dataclass(frozen=True)
class CacheLayers:
    """The kind of each kept block, and the cache layer of its attention; None if its attention is removed.

    Both have one entry per kept block. `listed` says whether the configuration lists the kinds.
    """

    kinds: tuple[str, ...]
    layers: tuple[int | None, ...]
    listed: bool


def cache_layers(config: Any, mask: Mask) -> CacheLayers:
    """The cache's layers for a mask over sub-layers; `config` is the configuration of the dense model.

    Raises InputError if no attention is left.
    """
    text = config.get_text_config(decoder=True)
    listed = getattr(text, "layer_types", None)
    kept = [block for block in range(mask.n_blocks) if block not in mask.gone]
    kinds = [listed[block] if listed else PLAIN for block in kept]
    has = [2 * block not in mask.dropped for block in kept]
    first = next((i for i, kind in enumerate(kinds) if has[i] and kind in ATTENDING), None)
    if all(has):
        return CacheLayers(tuple(kinds), tuple(range(len(kept))), bool(listed))
    if first is None and "hybrid" in kinds:
        raise InputError(
            f"a {config.model_type} model cannot be built without the attention of some blocks: attention and "
            "Mamba of a block are one part, and its cache needs both. Remove MLPs (unit=mlp) or whole blocks "
            "(unit=block)."
        )
    if first is None:
        raise InputError(
            f"no attention with keys and values would be left (of {mask.n_blocks} blocks): a {config.model_type} "
            "model needs at least one to count its tokens when it generates with a cache. Keep one of them."
        )
    return _filled(kinds, has, first, bool(listed))


def _filled(kinds: list[str], has: list[bool], first: int, listed: bool) -> CacheLayers:
    """Give the blocks without attention a kind; `first` is the first block whose attention is left."""
    layers: list[int | None] = [i if has[i] else None for i in range(len(kinds))]
    layers[first] = next((i for i in range(first) if not has[i]), first)
    last = kinds[first]
    for i, kind in enumerate(kinds):
        if not has[i]:
            kinds[i] = last
        elif kind in ATTENDING:
            last = kind
    return CacheLayers(tuple(kinds), tuple(layers), listed)


def set_kinds(config: Any, layers: CacheLayers) -> None:
    """Write the kinds of the blocks into the configuration of the smaller model.

    Raises InputError if the configuration computes the kinds, so that they cannot be written.
    """
    text = config.get_text_config(decoder=True)
    if not layers.listed or list(text.layer_types) == list(layers.kinds):
        return
    with suppress(AttributeError):  # a property without a setter
        text.layer_types = list(layers.kinds)
    if list(text.layer_types) != list(layers.kinds):
        raise InputError(
            f"a {config.model_type} model cannot be built without these parts: its configuration computes the "
            f"kinds of its blocks, and they would have to be {', '.join(layers.kinds)}. Remove whole blocks, or "
            "other parts."
        )
