"""Run one batch under many masks by walking the tree of keep/drop decisions unit by unit.

Masks with the same decisions up to some unit share the computation up to that unit. There is one hidden state per
prefix of decisions. A unit runs once for each prefix whose last decision keeps it. Dropped units cost nothing,
and the weights of units that all masks drop are never read. Units are blocks or sub-layers of blocks.

A walk can begin at states that an earlier walk has kept (`Beginnings`). A plan (`make_plan`) says
how many masks are in a walk, and which states the walk keeps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from pruning.core.mask import Mask
from pruning.engine.batching import Batch
from pruning.models.blocks import BlockInputs, enter

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.models.placement import LanguageModel

# A hidden state (B, T, D), and the indices of the masks that share it: those with the same decisions up to here.
Branch = tuple[Tensor, list[int]]
# A prefix of decisions: a depth, and the dropped units below it. Masks with the same prefix share its state.
Beginning = tuple[int, tuple[int, ...]]
States = MutableMapping[Beginning, Tensor]
FIRST: Beginning = (0, ())  # before the first unit, nothing is decided


def run_masks(
    model: LanguageModel,
    batch: Batch,
    masks: Sequence[Mask],
    merged: int,
    count: Callable[[int, int], None],
    scales: Sequence[float] | None = None,
    kept: States | None = None,
    wanted: Wanted | None = None,
) -> list[Branch]:
    """The states after the last unit, as one branch for each distinct mask. All masks are over the same units.

    A unit runs on its branches in batches of at most `merged` branches. For each batch, `count` is called
    with the unit's index and the number of branches. Dropping unit i multiplies a mask's state by `scales[i]`.
    Each mask starts at its deepest state in `kept`, and the walk adds to `kept` the states that `wanted` describes.
    """
    chain, kept = model.chain(masks[0].unit), {} if kept is None else kept
    entry = model_entry(model, batch)
    waiting = _starts(kept, masks)
    branches: list[Branch] = [(entry.hidden, waiting.pop(FIRST))] if FIRST in waiting else []
    nothing = entry.hidden.new_empty(0)
    entries = {1: replace(entry, hidden=nothing)}  # keys: the number of branches
    del entry
    for index in range(len(chain)):
        branches += [(kept[at], numbers) for at, numbers in waiting.items() if at[0] == index]
        if wanted is not None:
            wanted.keep(kept, index, branches, masks)
        keeping, branches = _split(branches, masks, index)
        scale = 1.0 if scales is None else scales[index]
        for i, (hidden, numbers) in enumerate(branches):  # these skip the unit
            if scale != 1.0:
                branches[i] = (hidden * scale, numbers)
            elif _is_view(hidden):  # so that the merged batch can be freed
                branches[i] = (hidden.clone(), numbers)
            del hidden
        while keeping:  # after the unit has run on a group, the group's old states are freed
            group, keeping[:merged] = keeping[:merged], []
            count(index, len(group))
            if len(group) not in entries:
                entries[len(group)] = replace(model_entry(model, batch, len(group)), hidden=nothing)
            outputs = chain.run(index, concatenated([hidden for hidden, _ in group]), entries[len(group)])
            split = outputs.tensor_split(len(group)) if len(group) > 1 else (outputs,)
            branches += [(hidden, numbers) for hidden, (_, numbers) in zip(split, group, strict=True)]
            del group, outputs, split
    if wanted is not None:
        wanted.forget_others(kept, masks[-1])
    return branches


def concatenated(states: Sequence[Tensor]) -> Tensor:
    """States stacked along the batch axis, on the device of the first state. Branches can be on different GPUs."""
    if len(states) == 1:
        return states[0]
    return torch.cat([state.to(states[0].device) for state in states])


def model_entry(model: LanguageModel, batch: Batch, copies: int = 1) -> BlockInputs:
    """The inputs of the model's blocks for a batch that is repeated `copies` times."""
    return enter(model.module, **batch.inputs(model.device, model.module.dtype, copies))


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


def _is_view(hidden: Tensor) -> bool:
    """Whether a state is a view of a larger tensor, which stays in memory as long as the view."""
    return hidden.untyped_storage().nbytes() != hidden.nbytes


# Hidden states from which later masks can start: the states after common prefixes of decisions.
#
# - If masks are walked in several groups, the masks of a later group start where they leave the path of the
#   previous group's last mask. These states are kept if they fit into half of the room.
# - The next request of a search often has the same prefixes. If a round of greedy search dropped block c, a mask
#   {j, c} of the next round, with j < c, agrees up to block c with the mask {j} of that round. If c is in the
#   middle, this saves a quarter of a round's block forwards. So states are kept at every s-th depth (s: the
#   smallest power of two with which they fit). Large requests keep none (`LARGE`).
#
# All states are exact, so losses do not depend on what is kept.


def beginning(mask: Mask, depth: int) -> Beginning:
    """The decisions of a mask about its first `depth` units."""
    return depth, tuple(unit for unit in mask.dropped if unit < depth)


def _starts(kept: States, masks: Sequence[Mask]) -> dict[Beginning, list[int]]:
    """For each kept prefix, the indices of the masks that start there: those without a deeper kept prefix."""
    known = sorted({depth for depth, _ in kept}, reverse=True)
    found: dict[Beginning, list[int]] = {}
    for number, mask in enumerate(masks):
        at = (beginning(mask, depth) for depth in known)
        found.setdefault(next((b for b in at if b in kept), FIRST), []).append(number)
    return found


@dataclass(frozen=True)
class Wanted:
    """What a walk keeps: for the next request, all states at `depths`; for the next walk, the last mask's at `edge`.

    `edge` has the depths at which masks of later walks leave the path of the last mask.
    """

    depths: Collection[int] = ()
    edge: Collection[int] = ()

    def keep(self, kept: States, depth: int, branches: Sequence[Branch], masks: Sequence[Mask]) -> None:
        """Keep the wanted states before unit `depth`. A view of a larger tensor is copied."""
        every, last = depth in self.depths, depth in self.edge
        for hidden, numbers in branches if depth and (every or last) else ():
            at = beginning(masks[numbers[0]], depth)
            if (every or numbers[-1] == len(masks) - 1) and at not in kept:
                kept[at] = hidden.clone() if _is_view(hidden) else hidden

    def forget_others(self, kept: States, last: Mask) -> None:
        """Delete the states that no later walk needs; `last` is the last mask of the walk that has ended."""
        needed = {beginning(last, depth) for depth in self.edge}
        for at in [at for at in kept if at[0] not in self.depths and at not in needed]:
            del kept[at]


@dataclass
class Beginnings:
    """The kept states of all batches, on the devices where they were computed."""

    _states: WeakKeyDictionary[Batch, dict[str, dict[Beginning, Tensor]]] = field(
        default_factory=WeakKeyDictionary
    )

    def of(self, batch: Batch, unit: str) -> dict[Beginning, Tensor]:
        """A batch's states for one kind of unit, because depths in blocks and in sub-layers differ."""
        return self._states.setdefault(batch, {}).setdefault(unit, {})

    def nbytes(self, batches: Collection[Batch] | None = None) -> int:
        """The size in bytes of all states or, if `batches` is given, of the states of these batches."""
        chosen = self._states if batches is None else [b for b in batches if b in self._states]
        kinds = (states for batch in chosen for states in self._states[batch].values())
        return sum(hidden.nbytes for states in kinds for hidden in states.values())

    def trim(self, batches: Collection[Batch], masks: Sequence[Mask], depths: Collection[int]) -> None:
        """For these batches, keep only the states at `depths` from which one of the masks can start."""
        current = {depth: {beginning(mask, depth) for mask in masks} for depth in depths}
        for batch in batches:
            states = self.of(batch, masks[0].unit)
            for at in [at for at in states if at not in current.get(at[0], ())]:
                del states[at]

    def clear(self, but: Collection[Batch] = ()) -> None:
        """Delete the states of all batches that are not in `but`."""
        for batch in [batch for batch in self._states if batch not in but]:
            del self._states[batch]


@dataclass
class Ends:
    """States after the last unit, from which the whole head can score a mask without running blocks.

    `states` has, for each batch and each mask of one request, only the states (n, D) at the batch's n scored
    positions. `masks` is None while the states are computed; afterwards it contains the
    request's masks. Each rank keeps the states of its own batches, and `masks` is equal on all ranks.
    `reserved` is the size of all states in bytes, on the rank that has the most.
    """

    rows: tuple[Row, ...]
    batches: Sequence[Batch]
    reserved: float
    masks: set[Mask] | None = None
    states: dict[Batch, dict[Mask, Tensor]] = field(default_factory=dict)


# Decide how the masks of one request are walked: how many at a time, and which states are kept between walks.

ALONE = 32  # masks per walk if no states can be kept between walks
# If a request has more masks per unit than this, such as one for all pairs, a related request seldom follows.
LARGE = 8
PATIENCE = 20.0  # target seconds of a walk: if the process is killed, about as much work is lost
UNKNOWN_PACE = 4  # masks in the first walk, after which the time of a mask is known


@dataclass
class Pace:
    """Chooses the number of masks per walk so that a walk takes about `PATIENCE` seconds.

    A walk takes a fixed time, for reading weights from a disk, and a time for each mask. If the fixed time
    exceeds half of `PATIENCE`, walks become longer, so that the masks take half of a walk's time.
    """

    _seen: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=8))

    def note(self, masks: int, seconds: float) -> None:
        """Note how long a walk took."""
        self._seen.append((masks, max(seconds, 1e-9)))

    def size(self) -> int:
        """The number of masks in the next walk."""
        if not self._seen:
            return UNKNOWN_PACE
        masks, seconds = np.array(self._seen).T
        fixed, each = 0.0, float(seconds.sum() / masks.sum())
        if len(set(masks)) > 1:
            slope, start = np.polyfit(masks, seconds, 1)
            if slope > 0 and start > 0:
                fixed, each = float(start), float(slope)
        return max(1, round(max(PATIENCE - fixed, fixed) / each))


@dataclass(frozen=True)
class StateBytes:
    """Numbers of bytes: `room` for all states, `walked` per mask in a walk, `kept` per kept prefix (all batches)."""

    room: float
    walked: int
    kept: int


@dataclass(frozen=True)
class WalkPlan:
    """A plan of walks with at most `capacity` masks each. States at `depths` are kept for the next request.

    If `continues` is true, a walk starts at states of the previous walk, so the number of masks per walk
    does not change the cost.
    """

    capacity: int
    depths: range
    continues: bool

    def size(self, pace: Pace) -> int:
        """The number of masks in the next walk. If this number does not change the cost, `pace` chooses it."""
        return min(self.capacity, pace.size() if self.continues else ALONE)


def make_plan(leaving: Sequence[int], n_units: int, sizes: StateBytes) -> WalkPlan:
    """The plan for sorted masks whose `forks` are `leaving`. Kept states take at most half of `sizes.room`."""
    edge = most_edges(leaving) * (sizes.kept + sizes.walked)
    continues = edge <= sizes.room / 2
    depths = range(0)
    if continues and 0 < len(leaving) < LARGE * n_units:
        depths = affordable_depths(leaving, n_units, sizes.kept, sizes.room / 2 - edge)
    held = (edge if continues else 0) + sizes.kept * _count_states(leaving, depths)
    return WalkPlan(max(1, int(max(0.0, sizes.room - held) // sizes.walked)), depths, continues)


def forks(masks: Sequence[Mask]) -> list[int]:
    """For each mask but the last, the first unit on which it and the next mask decide differently."""
    return [min({*a.dropped} ^ {*b.dropped}, default=a.n_units) for a, b in pairwise(masks)]


def edges(leaving: Sequence[int]) -> list[int]:
    """The depths at which later masks leave the path of a mask; `leaving` are the `forks` from that mask on."""
    depths: list[int] = []
    for fork in leaving:
        if not depths or fork < depths[-1]:
            depths.append(fork)
    return depths


def most_edges(leaving: Sequence[int]) -> int:
    """The largest number of `edges` of any mask; computed from the last mask backwards."""
    most, stack = 0, list[int]()
    for fork in reversed(leaving):
        while stack and stack[-1] >= fork:
            stack.pop()
        stack.append(fork)
        most = max(most, len(stack))
    return most


def affordable_depths(leaving: Sequence[int], n_units: int, state_bytes: int, room: float) -> range:
    """Every s-th depth; s is the smallest power of two for which the states at these depths fit into `room` bytes.

    `leaving` are the `forks` of the sorted masks, and `state_bytes` is the size of one state on all batches.
    """
    step = 1
    while step < n_units:
        depths = range(step, n_units, step)
        if _count_states(leaving, depths) * state_bytes <= room:
            return depths
        step *= 2
    return range(0)


def _count_states(leaving: Sequence[int], depths: range) -> int:
    """The number of different prefixes at some depths, for sorted masks whose forks are `leaving`."""
    return sum(1 + sum(fork < depth for fork in leaving) for depth in depths)
