"""Multiply the hidden state by the factors of removed units, in a model that no longer has these units.

A compensation gives each removed unit a factor. The engine applies it in the place of the unit. A model from which
the units are gone applies it before or after the blocks that are left, through hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from pruning.core.mask import Mask
from pruning.models.block_probe import hidden_state


def add_scales(blocks: Sequence[nn.Module], mask: Mask, scales: Sequence[float]) -> list[RemovableHandle]:
    """Make the kept blocks multiply the hidden state by the factors of removed units; returns the hooks' handles.

    `blocks` are the blocks that a mask keeps, in order; `scales` has one factor per unit of the dense model.
    """
    numbers = [index for index in range(mask.n_blocks) if index not in mask.gone]
    before, after = dict.fromkeys(range(len(blocks) + 1), 1.0), dict.fromkeys(range(len(blocks)), 1.0)
    for unit in mask.dropped:
        block = unit if mask.unit == "block" else unit // 2
        place = sum(number < block for number in numbers)  # the first kept block that is not before this one
        if block in numbers and unit % 2:  # only the MLP of a kept block is removed
            after[place] *= scales[unit]
        else:
            before[place] *= scales[unit]
    after[len(blocks) - 1] *= before.pop(len(blocks))
    handles = [
        blocks[place].register_forward_pre_hook(_scaled_input(factor), with_kwargs=True)
        for place, factor in before.items()
        if factor != 1.0
    ]
    return handles + [
        blocks[place].register_forward_hook(_scaled_output(factor))
        for place, factor in after.items()
        if factor != 1.0
    ]


def _scaled_input(factor: float) -> Any:
    def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = hidden_state(args, kwargs)
        assert hidden is not None
        if args:
            return (hidden * factor, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": hidden * factor}

    return hook


def _scaled_output(factor: float) -> Any:
    def hook(_module: Any, _args: Any, output: Any) -> Any:
        return (output[0] * factor, *output[1:]) if isinstance(output, tuple) else output * factor

    return hook
