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
    count = empty.config.get_text_config(decoder=True).num_hidden_layers
    try:
        path, _ = pruned_config.blocks_of(empty, count)
    except (UnskippableError, AttributeError):  # the loaded model is checked by a forward pass
        path = ""
    if path and (seen := _block_numbers(stored, path)):
        if lacking := sorted({*range(count)} - seen):
            raise _other_depth(model, count, f"lack block {lacking[0]}")
        check_extra(model, stored, path, empty)
    wanted = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    order = sorted if _transposes(empty) else list
    for name, shape in stored.items():
        if name in wanted and order(shape) != order(wanted[name]):
            raise InputError(
                f"{model}: the tensor {name} has the shape {shape}, and config.json asks for {wanted[name]}: use the "
                "configuration and the weights of one model."
            )
    if _unmatched(stored.keys() - wanted.keys(), *BUFFERS, *(empty._keys_to_ignore_on_load_unexpected or ())):
        return  # the model may have them under other names
    # Tied copies need not be stored, nor what the class initialises itself.
    tied = getattr(empty, "all_tied_weights_keys", None) or {}
    needed = wanted.keys() - stored.keys() - {*tied, *tied.values()}
    if absent := sorted(_unmatched(needed, *(empty._keys_to_ignore_on_load_missing or ()))):
        raise InputError(
            f"{model} lacks {len(absent)} weights, for example {absent[0]}: use a complete checkpoint."
        )


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
    counted = _unmatched(names, *(model._keys_to_ignore_on_load_unexpected or ()))
    most = config.num_hidden_layers + (getattr(config, "num_nextn_predict_layers", None) or 0)
    return sorted(number for number in _block_numbers(counted, path) if number >= most)


def _block_numbers(names: Collection[str], path: str) -> set[int]:
    """The block numbers in names of tensors. The first part of `path` can be missing, as in a base model."""
    short = path.partition(".")[2] or path
    matches = (re.match(rf"(?:{re.escape(path)}|{re.escape(short)})\.(\d+)\.", name) for name in names)
    return {int(match[1]) for match in matches if match}


def _unmatched(names: Collection[str], *patterns: str) -> list[str]:
    return [name for name in names if not any(re.search(pattern, name) for pattern in patterns)]


def _transposes(empty: Any) -> bool:
    """Whether transformers transposes tensors of this architecture when it loads them."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    changes = get_checkpoint_conversion_mapping(empty.config.model_type) or ()
    steps = [step for change in changes for step in getattr(change, "operations", None) or ()]
    return any(type(step).__name__ == "Transpose" for step in steps)


def _other_depth(model: str, count: int, why: str) -> InputError:
    return InputError(
        f"{model}: config.json asks for {count} blocks (0 to {count - 1}), and the weights {why}: use the "
        "configuration and the weights of one model."
    )
