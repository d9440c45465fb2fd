"""Make the configuration of a model with fewer blocks; check, without weights, that kept blocks are unchanged.

Settings per block (kinds of attention, blocks with experts, ...) are filtered and renumbered. Some
architectures instead compute such a setting from a block's number, so renumbering can change the setting.
Therefore the dense and the smaller model are built without weights, and the kept blocks are compared.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pruning.core.errors import InputError, UnskippableError, first_line
from pruning.core.mask import Mask

if TYPE_CHECKING:
    from torch import nn


# Settings that are lists of block numbers. In a model of N blocks, any other list with N entries has one
# entry per block.
NUMBERS = (
    *("attn_layer_indices", "cross_attention_layers", "full_attn_idxs", "hybrid_layer_ids"),
    *("kv_source_layers", "local_layer_ids", "mlp_only_layers", "moe_layers", "ple_layer_ids"),
    "rope_scaling_layers",
)
# Settings that are the number of leading blocks that differ from the others.
COUNTS = ("first_k_dense_replace", "max_window_layers", "moe_layer_start_index", "num_dense_layers")
# Settings that give the kinds of blocks by a rule. If `layer_types` lists each block's kind, the rules are
# removed, unless the configuration class declares them.
RULES = ("sliding_window_pattern", "_sliding_window_pattern")
# Attributes whose value is a block's number or the number of blocks.
NUMBERING = re.compile(r"(idx|index|layer_id|layer_number|num_\w*layers)$")
NOT_PER_BLOCK = ("architectures", "attention_types", "time_step_limit")


def pruned_config(config: Any, mask: Mask) -> Any:
    """A copy of a transformers configuration for the blocks that a mask keeps.

    Raises InputError if the configuration has separate settings for single blocks (`per_layer_config`).
    """
    new = copy.deepcopy(config)
    text = new.get_text_config(decoder=True)
    if getattr(text, "is_heterogeneous", False):
        raise InputError(
            "its configuration overrides settings block by block (per_layer_config), which is not supported."
        )
    for name, value in list(vars(text).items()):
        if name.endswith(("_token_id", "_token_ids")):
            continue
        if name in NUMBERS and value is not None:
            setattr(text, name, [new for new, old in enumerate(mask.kept) if old in value])
            continue
        if not isinstance(value, list | tuple) or name in NOT_PER_BLOCK:
            continue
        # Llama 4 and SmolLM3 allow `no_rope_layers` to have more entries than the model has blocks.
        if len(value) == mask.n_blocks or (name == "no_rope_layers" and len(value) > mask.n_blocks):
            kept = [value[i] for i in mask.kept]
            setattr(text, name, tuple(kept) if isinstance(value, tuple) else kept)
    for name in COUNTS:
        if isinstance(count := vars(text).get(name), int):
            setattr(text, name, sum(old < count for old in mask.kept))
    # The list `layer_types` replaces rules that depend on a block's number.
    if vars(text).get("layer_types") is not None:
        for name in [rule for rule in RULES if rule not in getattr(type(text), "__annotations__", {})]:
            vars(text).pop(name, None)
    if "attention_types" in vars(text):  # GPT-Neo: a pattern and its number of repeats
        text.attention_types = [[list(text.attention_layers), 1]]
    text.num_hidden_layers = len(mask.kept)
    return new


def skeleton(config: Any, **options: Any) -> Any:
    """A causal language model with this configuration on the meta device; `options` go to `from_config`."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            copy.deepcopy(config), **options, attn_implementation="eager", trust_remote_code=False
        )


def blocks_of(model: Any, count: int) -> tuple[str, nn.ModuleList]:
    """The name and the list of a model's decoder blocks, found without running the model.

    Raises UnskippableError unless the decoder has exactly one list of `count` modules.
    """
    from torch import nn  # imported here, because a command that only reads results needs no torch

    inside = model.get_decoder().modules()
    lists = [module for module in inside if isinstance(module, nn.ModuleList) and len(module) == count]
    if len(lists) != 1:
        raise UnskippableError(
            f"no single list of {count} blocks in {type(model).__name__}: {len(lists)} lists have this length."
        )
    return next((name, module) for name, module in model.named_modules() if module is lists[0])


def check_same_blocks(config: Any, smaller: Any, mask: Mask) -> tuple[Any, Any]:
    """The dense and the smaller model, without weights. Raises InputError if a kept block would change.

    Of the compared properties (`_traits`), only a block's number and the number of blocks may differ.
    """
    try:
        dense, pruned = skeleton(config), skeleton(smaller)
        old, new = blocks_of(dense, mask.n_blocks)[1], blocks_of(pruned, len(mask.kept))[1]
    except (IndexError, ValueError, TypeError) as error:  # transformers found an invalid list in the config
        raise InputError(
            f"these blocks do not make a valid {config.model_type} model ({first_line(error)}): choose others."
        ) from error
    for position, number in enumerate(mask.kept):
        old_traits, new_traits = (dict(_traits(m)) for m in (old[number], new[position]))
        numbering = {(number, position), (mask.n_blocks, len(mask.kept))}
        for name in dict.fromkeys([*old_traits, *new_traits]):
            before, after = old_traits.get(name), new_traits.get(name)
            if before != after and not (NUMBERING.search(name) and (before, after) in numbering):
                raise InputError(
                    f"block {number} cannot become block {position}: its {name} would change from {before} to "
                    f"{after}, because a {config.model_type} model derives it from the block's number. Choose "
                    "other blocks."
                )
    return dense, pruned


def _traits(block: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each property that determines a block's outputs, except weight values."""
    for path, module in block.named_modules():
        yield f"{path} class".lstrip(), type(module).__name__
        for name, value in vars(module).items():
            if isinstance(value, bool | int | float | str) and name != "training":
                yield f"{path}.{name}".lstrip("."), value
    for name, tensor in block.state_dict().items():
        yield f"{name} shape", tuple(tensor.shape)
