"""One batch under many masks: a tree of keep/drop decisions, walked block by block.

Masks that decide alike up to some block share everything up to it: one hidden state for each distinct beginning, one
block forward for each distinct beginning that keeps the block. A dropped block costs nothing, and one that no mask
keeps is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pruning.engine.batching import Batch
from pruning.models.blocks import Blocks, Entry, apply, enter, find_blocks

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.models.loader import LanguageModel

# A hidden state (B, T, D), and the numbers of the masks that have made the same decisions so far.
Branch = tuple[Tensor, list[int]]


def run_masks(
    model: LanguageModel,
    batch: Batch,
    masks: Sequence[Mask],
    merged: int,
    count: Callable[[int], None],
    scales: Sequence[float] | None = None,
) -> list[Branch]:
    """The states behind the last block, for distinct masks one branch each.

    At most `merged` branches go through a block as one batch; `count` is told how many went. A dropped block i
    multiplies the state by `scales[i]`.
    """
    blocks = find_blocks(model.module)
    entry = model_entry(model, batch, 1, {})
    branches: list[Branch] = [(entry.hidden, list(range(len(masks))))]
    entries = {1: _without_state(entry)}
    del entry
    for index in range(len(blocks.modules)):
        stay, branches = _decide(branches, masks, index)
        _pass(branches, 1.0 if scales is None else scales[index])
        while stay:  # what has gone through the block is let go
            group, stay[:merged] = stay[:merged], []
            count(len(group))
            branches += _through(blocks, index, group, model_entry(model, batch, len(group), entries))
            del group
    return branches


def _through(blocks: Blocks, index: int, group: Sequence[Branch], entry: Entry) -> list[Branch]:
    """Branches behind a block, through which they go as one batch."""
    outputs = apply(blocks, index, concatenated([hidden for hidden, _ in group]), entry)
    split = outputs.tensor_split(len(group)) if len(group) > 1 else (outputs,)
    return [(hidden, own) for hidden, (_, own) in zip(split, group, strict=True)]


def _pass(branches: list[Branch], scale: float) -> None:
    """Let branches pass a block by; they keep no memory of others with which they went through the one before."""
    for number, (hidden, own) in enumerate(branches):
        if scale != 1.0:
            branches[number] = (hidden * scale, own)
        elif hidden.untyped_storage().nbytes() != hidden.nbytes:
            branches[number] = (hidden.clone(), own)


def concatenated(states: Sequence[Tensor]) -> Tensor:
    """States one below the other, on the device of the first: branches that part may end on different GPUs."""
    if len(states) == 1:
        return states[0]
    return torch.cat([state.to(states[0].device) for state in states])


def model_entry(model: LanguageModel, batch: Batch, copies: int, known: dict[int, Entry]) -> Entry:
    """What the model hands to its blocks for `copies` of a batch, found out once for each number of copies.

    The state comes with a single copy only.
    """
    if copies not in known:
        entry = enter(model.module, **batch.inputs(model.device, model.module.dtype, copies))
        known[copies] = entry if copies == 1 else _without_state(entry)
    return known[copies]


def _without_state(entry: Entry) -> Entry:
    return replace(entry, hidden=entry.hidden.new_empty(0))


def _decide(
    branches: Sequence[Branch], masks: Sequence[Mask], index: int
) -> tuple[list[Branch], list[Branch]]:
    """Branches that keep a block, and branches that pass it by; one that is of two minds becomes two."""
    stay, pass_by = [], []
    for hidden, own in branches:
        dropping = [number for number in own if index in masks[number].dropped]
        keeping = [number for number in own if index not in masks[number].dropped]
        if keeping:
            stay.append((hidden, keeping))
        if dropping:
            pass_by.append((hidden, dropping))
    return stay, pass_by
