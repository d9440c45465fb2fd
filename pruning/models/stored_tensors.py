"""Compare the names and shapes of stored tensors with the model that a configuration describes.

Only what is surely wrong is refused. If an old release of transformers wrote a checkpoint, its names can differ
from those of the model; such tensors are checked when they are loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from pruning.core.errors import InputError, UnskippableError
from pruning.models import pruned_config
from pruning.models.model_files import Shapes

# Buffers that old releases of transformers stored, and that the model computes itself.
BUFFERS = (r"rotary_emb\.inv_freq$", r"\.attn\.(masked_)?bias$")


def check_stored_tensors(model: str, empty: Any, stored: Shapes) -> None:
    """Compare stored tensors with the model that the configuration describes (`empty`, without weights).

    Raises InputError if a block is missing or left over, if a shape differs, or if a tensor is missing.
    """
    _check_depth(model, empty, stored)
    wanted = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    order = sorted if _transposes(empty) else list
    for name, shape in stored.items():
        if name in wanted and order(shape) != order(wanted[name]):
            raise InputError(
                f"{model}: the tensor {name} has the shape {shape}, and config.json asks for {wanted[name]}: use the "
                "configuration and the weights of one model."
            )
    if not _unknown(empty, wanted, stored) and (lacking_names := _lacking(empty, wanted, stored)):
        raise InputError(
            f"{model} lacks {len(lacking_names)} weights, for example {lacking_names[0]}: use a complete checkpoint."
        )


def _check_depth(model: str, empty: Any, stored: Shapes) -> None:
    """Raise InputError unless the stored tensors number all blocks, and no others."""
    count = empty.config.get_text_config(decoder=True).num_hidden_layers
    try:
        path, _ = pruned_config.blocks_of(empty, count)
    except (UnskippableError, AttributeError):  # the loaded model is checked by a forward pass
        return
    seen = block_numbers(stored, path)
    if seen and (lacking := sorted({*range(count)} - seen)):
        raise _other_depth(model, count, f"lack block {lacking[0]}")
    check_extra(model, stored, path, empty)


def check_extra(model: str, names: Collection[str], path: str, empty: Any) -> None:
    """Raise InputError if tensors belong to blocks that the configuration does not count."""
    if left_over := extra_blocks(names, path, empty):
        count = empty.config.get_text_config(decoder=True).num_hidden_layers
        raise _other_depth(model, count, f"hold block {left_over[0]} too")


def extra_blocks(names: Collection[str], path: str, model: Any) -> list[int]:
    """The numbers of blocks that tensors belong to and that the configuration does not count, in order.

    `path` is the name of the list of blocks. Blocks that the model's class ignores on purpose are left out, such as
    those for the prediction of several tokens.
    """
    config = model.config.get_text_config(decoder=True)
    ignored = tuple(model._keys_to_ignore_on_load_unexpected or ())
    counted = [name for name in names if not any(re.search(pattern, name) for pattern in ignored)]
    most = config.num_hidden_layers + (getattr(config, "num_nextn_predict_layers", None) or 0)
    return sorted(number for number in block_numbers(counted, path) if number >= most)


def block_numbers(names: Collection[str], path: str) -> set[int]:
    """The block numbers in names of tensors. The first part of `path` can be missing, as in a base model."""
    short = path.partition(".")[2] or path
    matches = (re.match(rf"(?:{re.escape(path)}|{re.escape(short)})\.(\d+)\.", name) for name in names)
    return {int(match[1]) for match in matches if match}


def _transposes(empty: Any) -> bool:
    """Whether transformers transposes tensors of this architecture when it loads them."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    changes = get_checkpoint_conversion_mapping(empty.config.model_type) or ()
    steps = [step for change in changes for step in getattr(change, "operations", None) or ()]
    return any(type(step).__name__ == "Transpose" for step in steps)


def _unknown(empty: Any, wanted: Shapes, stored: Shapes) -> list[str]:
    """Stored tensors that the model may have under other names. Those that are ignored on purpose are not."""
    patterns = (*BUFFERS, *(empty._keys_to_ignore_on_load_unexpected or ()))
    return [name for name in stored.keys() - wanted.keys() if not any(re.search(p, name) for p in patterns)]


def _lacking(empty: Any, wanted: Shapes, stored: Shapes) -> list[str]:
    """Tensors that are needed and not stored. Tied copies, and those that the class initialises itself, are not."""
    tied = getattr(empty, "all_tied_weights_keys", None) or {}
    patterns = tuple(empty._keys_to_ignore_on_load_missing or ())
    return [
        name
        for name in sorted(wanted.keys() - stored.keys() - {*tied, *tied.values()})
        if not any(re.search(pattern, name) for pattern in patterns)
    ]


def _other_depth(model: str, count: int, why: str) -> InputError:
    return InputError(
        f"{model}: config.json asks for {count} blocks (0 to {count - 1}), and the weights {why}: use the "
        "configuration and the weights of one model."
    )
