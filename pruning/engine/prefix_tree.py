"""Run one batch under many masks by walking the tree of keep/drop decisions unit by unit.

Masks with the same decisions up to some unit share the computation up to that unit. There is one hidden state for
each distinct prefix of decisions, and a unit runs once for each distinct prefix that keeps it. A dropped unit costs
nothing, and the weights of a unit that no mask keeps are never read. Units are blocks or sub-layers of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pruning.engine.batching import Batch
from pruning.engine.beginnings import FIRST, Notes
from pruning.models.blocks import BlockInputs, enter
from pruning.models.units import Chain, find_chain

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.models.loader import LanguageModel

# A hidden state (B, T, D), and the indices of the masks that share it: those with the same decisions up to here.
Branch = tuple[Tensor, list[int]]


def run_masks(
    model: LanguageModel,
    batch: Batch,
    masks: Sequence[Mask],
    merged: int,
    count: Callable[[int, int], None],
    scales: Sequence[float] | None = None,
    notes: Notes | None = None,
    fill: bool = False,
) -> list[Branch]:
    """The states after the last unit: one branch for each distinct mask. All masks are over the same units.

    A unit runs on its branches in batches of at most `merged` branches, or if `fill`, of just as many. For each
    batch, `count` is called with the number of the unit and of the branches that it ran on. A dropped unit i
    multiplies the state by `scales[i]`. Masks start at the deepest state in `notes`, and the walk adds the states
    that `notes` wants.
    """
    chain, notes = find_chain(model.module, masks[0].unit), notes or Notes()
    entry = model_entry(model, batch, 1, {})
    waiting = notes.starts(masks)
    branches: list[Branch] = [(entry.hidden, waiting.pop(FIRST))] if FIRST in waiting else []
    entries = {1: _without_state(entry)}
    del entry
    for index in range(len(chain)):
        branches += [(notes.states[at], numbers) for at, numbers in waiting.items() if at[0] == index]
        notes.pass_by(index, branches, masks)
        keeping, branches = _split(branches, masks, index)
        _skip_unit(branches, 1.0 if scales is None else scales[index])
        while keeping:  # after the unit has run on a group, the group's old states are freed
            group, keeping[:merged] = keeping[:merged], []
            rows = merged if fill else len(group)
            count(index, rows)
            branches += _run_unit(chain, index, group, model_entry(model, batch, rows, entries), rows)
            del group
    return branches


def _run_unit(
    chain: Chain, index: int, group: Sequence[Branch], entry: BlockInputs, rows: int
) -> list[Branch]:
    """Run a group of branches through a unit as one batch of `rows` branches. Returns the branches after the unit."""
    outputs = chain.run(index, concatenated(filled([hidden for hidden, _ in group], rows)), entry)
    split = outputs.tensor_split(rows) if rows > 1 else (outputs,)
    if rows > len(group):  # copies free the memory of what fills the batch
        split = tuple(hidden.clone() for hidden in split[: len(group)])
    return [(hidden, numbers) for hidden, (_, numbers) in zip(split, group, strict=True)]


def filled(states: Sequence[Tensor], count: int) -> list[Tensor]:
    """The states, and the last one again until there are `count`."""
    return [*states, *[states[-1]] * (count - len(states))]


def _skip_unit(branches: list[Branch], scale: float) -> None:
    """Skip a dropped unit; clone views so that the merged batch can be freed."""
    for i, (hidden, numbers) in enumerate(branches):
        if scale != 1.0:
            branches[i] = (hidden * scale, numbers)
        elif hidden.untyped_storage().nbytes() != hidden.nbytes:
            branches[i] = (hidden.clone(), numbers)


def concatenated(states: Sequence[Tensor]) -> Tensor:
    """States stacked along the batch axis, on the device of the first state. Branches can be on different GPUs."""
    if len(states) == 1:
        return states[0]
    return torch.cat([state.to(states[0].device) for state in states])


def model_entry(
    model: LanguageModel, batch: Batch, copies: int, cache: dict[int, BlockInputs]
) -> BlockInputs:
    """The inputs of the blocks for `copies` of a batch, computed once for each number of copies.

    If `copies` is more than 1, the result has no hidden state.
    """
    if copies not in cache:
        entry = enter(model.module, **batch.inputs(model.device, model.module.dtype, copies))
        cache[copies] = entry if copies == 1 else _without_state(entry)
    return cache[copies]


def _without_state(entry: BlockInputs) -> BlockInputs:
    return replace(entry, hidden=entry.hidden.new_empty(0))


def _split(
    branches: Sequence[Branch], masks: Sequence[Mask], index: int
) -> tuple[list[Branch], list[Branch]]:
    """Branches that keep a unit, and branches that drop it. A branch that holds both kinds of mask is split."""
    keeping, dropping = [], []
    for hidden, numbers in branches:
        kept = [number for number in numbers if index not in masks[number].dropped]
        dropped = [number for number in numbers if index in masks[number].dropped]
        if kept:
            keeping.append((hidden, kept))
        if dropped:
            dropping.append((hidden, dropped))
    return keeping, dropping
