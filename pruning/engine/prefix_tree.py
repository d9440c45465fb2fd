"""Run one batch under many masks by walking the tree of keep/drop decisions unit by unit.

Masks with the same decisions up to some unit share the computation up to that unit. There is one hidden state for
each distinct prefix of decisions, and a unit runs once for each distinct prefix that keeps it. A dropped unit costs
nothing, and the weights of a unit that no mask keeps are never read. Units are blocks or sub-layers of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pruning.core.mask import Mask
from pruning.engine.batching import Batch, Pace
from pruning.models.blocks import BlockInputs, enter
from pruning.models.sublayers import Chain, find_chain

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.models.model import LanguageModel


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


# Hidden states that later masks can start from: the states after common beginnings of masks.
#
# A beginning is a depth and the dropped blocks below it; masks with the same beginning have the same state there.
# Two kinds of states are kept, so that no block runs twice on the same state:
#
# - If masks are walked in several groups, those of a later group start where they leave the path of the last mask
#   before them. These states are always kept.
# - The next request of a search often has the same beginnings. After greedy search has dropped block c, it asks for
#   masks that drop a block j as well. For j < c, each begins as a mask of the round before, down to block c. If c
#   is in
#   the middle, this saves a quarter of a round's block forwards. These states are kept at every s-th depth, with the
#   smallest s for which they fit into memory, unless the request is so large that no related one is likely to
#   follow.
#
# All states are exact, so losses do not depend on what is kept.

Beginning = tuple[int, tuple[int, ...]]  # a depth, and the dropped blocks below it
FIRST: Beginning = (0, ())  # the first block: nothing is decided yet


def beginning(mask: Mask, depth: int) -> Beginning:
    """The decisions of a mask about its first `depth` blocks."""
    return depth, tuple(block for block in mask.dropped if block < depth)


def forks(masks: Sequence[Mask]) -> list[int]:
    """For each pair of neighbours, the first block about which they decide differently."""
    return [min({*a.dropped} ^ {*b.dropped}, default=a.n_units) for a, b in pairwise(masks)]


def edges(leaving: Sequence[int]) -> list[int]:
    """The depths at which later masks leave the path of a mask; `leaving` are the forks from that mask on."""
    depths: list[int] = []
    for fork in leaving:
        if not depths or fork < depths[-1]:
            depths.append(fork)
    return depths


def most_edges(leaving: Sequence[int]) -> int:
    """The largest number of edges that any mask has; computed from the last mask backwards."""
    most, stack = 0, list[int]()
    for fork in reversed(leaving):
        while stack and stack[-1] >= fork:
            stack.pop()
        stack.append(fork)
        most = max(most, len(stack))
    return most


@dataclass(frozen=True)
class Wanted:
    """Which states a walk keeps: all at `depths` for the next request, and those at `edge` for the next walk.

    `edge` are depths on the path of the last mask of the walk.
    """

    depths: Collection[int] = ()
    edge: Collection[int] = ()


NOTHING = Wanted()


@dataclass(frozen=True)
class Notes:
    """The states of one batch, and which of those that a walk comes by are to be kept."""

    states: dict[Beginning, Tensor] = field(default_factory=dict)
    wanted: Wanted = NOTHING

    def starts(self, masks: Sequence[Mask]) -> dict[Beginning, list[int]]:
        """The deepest known beginning of each mask, with the numbers of its masks."""
        known = sorted({depth for depth, _ in self.states}, reverse=True)
        found: dict[Beginning, list[int]] = {}
        for number, mask in enumerate(masks):
            at = (beginning(mask, depth) for depth in known)
            found.setdefault(next((b for b in at if b in self.states), FIRST), []).append(number)
        return found

    def pass_by(
        self, depth: int, branches: Sequence[tuple[Tensor, list[int]]], masks: Sequence[Mask]
    ) -> None:
        """Keep the states before block `depth` that are wanted. A view of a larger tensor is copied."""
        every, last = depth in self.wanted.depths, depth in self.wanted.edge
        for hidden, numbers in branches if depth and (every or last) else ():
            at = beginning(masks[numbers[0]], depth)
            if (every or numbers[-1] == len(masks) - 1) and at not in self.states:
                whole = hidden.untyped_storage().nbytes() == hidden.nbytes
                self.states[at] = hidden if whole else hidden.clone()

    def end(self, last: Mask) -> None:
        """Forget the states that were kept for this walk only."""
        needed = {beginning(last, depth) for depth in self.wanted.edge}
        for at in [at for at in self.states if at[0] not in self.wanted.depths and at not in needed]:
            del self.states[at]


@dataclass
class Beginnings:
    """The kept states of all batches, on the devices where they were computed."""

    _states: WeakKeyDictionary[Batch, dict[str, dict[Beginning, Tensor]]] = field(
        default_factory=WeakKeyDictionary
    )

    def of(self, batch: Batch, unit: str) -> dict[Beginning, Tensor]:
        """The states of a batch between units of one kind; depths of blocks and of sub-layers mean other states."""
        return self._states.setdefault(batch, {}).setdefault(unit, {})

    def nbytes(self, batches: Collection[Batch] | None = None) -> int:
        """The bytes of all states, or of those of some batches."""
        chosen = self._states if batches is None else [b for b in batches if b in self._states]
        kinds = (states for batch in chosen for states in self._states[batch].values())
        return sum(hidden.nbytes for states in kinds for hidden in states.values())

    def trim(self, batches: Collection[Batch], masks: Sequence[Mask], depths: Collection[int]) -> None:
        """Of some batches, keep the states at `depths` with which one of the masks begins."""
        current = {depth: {beginning(mask, depth) for mask in masks} for depth in depths}
        for batch in batches:
            states = self.of(batch, masks[0].unit)
            for at in [at for at in states if at not in current.get(at[0], ())]:
                del states[at]

    def clear(self, but: Collection[Batch] = ()) -> None:
        """Forget all states, except those of the batches `but`."""
        for batch in [batch for batch in self._states if batch not in but]:
            del self._states[batch]


def affordable_depths(leaving: Sequence[int], n_units: int, state_bytes: int, room: float) -> range:
    """Every s-th depth, with the smallest power of two s for which all states there fit into `room` bytes.

    `leaving` are the forks of the masks in order, and `state_bytes` is the size of one state on all batches.
    """
    fitting = (d for d in _strided(n_units) if count_states(leaving, d) * state_bytes <= room)
    return next(fitting, range(0))


def count_states(leaving: Sequence[int], depths: range) -> int:
    """The number of different beginnings at some depths, of masks in order whose forks are `leaving`."""
    return sum(1 + sum(fork < depth for fork in leaving) for depth in depths)


def _strided(n_units: int) -> Iterator[range]:
    step = 1
    while step < n_units:
        yield range(step, n_units, step)
        step *= 2


# Hidden states after the last unit, kept so that the whole head can be applied to a mask without running its blocks.
#
# They are kept at the scored positions only, for the masks of one request, while a search bounds losses by a part of
# the vocabulary (`partial_head.py`).

SHARE = 0.5  # of the room for hidden states that ends may take


@dataclass
class Ends:
    """The states (n, D) at the n targets of each batch, by mask. `masks` are those whose states are all here.

    On several ranks, each keeps those of its own batches, and `masks` is equal on all. `reserved` is how many bytes
    all states take, on the rank that has most.
    """

    rows: tuple[Row, ...] = ()
    batches: Sequence[Batch] = ()
    reserved: float = 0.0
    masks: set[Mask] = field(default_factory=set)
    states: dict[Batch, dict[Mask, Tensor]] = field(default_factory=dict)
    open: bool = False

    def begin(self, rows: tuple[Row, ...], batches: Sequence[Batch], reserved: float) -> None:
        """Forget all states, and keep those of passes over these rows, in these batches, from now on."""
        self.drop()
        self.rows, self.batches, self.reserved, self.open = rows, batches, reserved, True

    def drop(self) -> None:
        """Forget all states, and keep none."""
        self.rows, self.batches, self.reserved, self.masks, self.states = (), (), 0.0, set(), {}
        self.open = False

    def note(self, batch: Batch, mask: Mask, state: Tensor) -> None:
        """Keep a state, if states are being kept."""
        if self.open:
            self.states.setdefault(batch, {})[mask] = state

    def finish(self, masks: Sequence[Mask]) -> None:
        """Keep no more states. Those of `masks` are complete."""
        self.masks, self.open = set(masks), False

    def known(self, rows: tuple[Row, ...], batches: Sequence[Batch], masks: Sequence[Mask]) -> list[Mask]:
        """Those of the masks whose states are here. If other rows or batches are asked for, all are forgotten."""
        if rows != self.rows or list(map(id, batches)) != list(map(id, self.batches)):
            self.drop()
        return [mask for mask in masks if mask in self.masks]


# Decide how the masks of one request are walked: how many at a time, and which states are kept between walks.

ALONE = 32  # masks per walk if no states can be kept between walks
FILLS = 16  # masks per walk for each branch of a filled pass: at each unit, at most one pass is not full
# A request for more masks than this for each unit, such as all pairs, is seldom followed by a related one.
LARGE = 8


@dataclass(frozen=True)
class Sizes:
    """Bytes: `room` for all states, `walked` for one mask's state in a walk, `kept` for a state on all batches.

    `filled` is the number of branches that passes are filled up to; 1 if they are not.
    """

    room: float
    walked: int
    kept: int
    filled: int = 1


@dataclass(frozen=True)
class Plan:
    """At most `capacity` masks per walk. States at `depths` are kept for the next request.

    If `continues` is true, a walk starts at states of the one before. The number of masks per walk then changes no
    cost, unless passes are `filled` up to several branches.
    """

    capacity: int
    depths: range
    continues: bool
    filled: int = 1

    def size(self, pace: Pace) -> int:
        """The number of masks in the next walk.

        If it changes the cost, it does not depend on the clock, so that block forwards do not, either.
        """
        if self.filled > 1:
            return min(self.capacity, FILLS * self.filled)
        return min(self.capacity, pace.size() if self.continues else ALONE)


def make_plan(leaving: Sequence[int], n_units: int, sizes: Sizes) -> Plan:
    """The plan for masks in order, of which `leaving` are the forks. Half of the room is for states that are kept."""
    edge = most_edges(leaving) * (sizes.kept + sizes.walked)
    continues = edge <= sizes.room / 2
    depths = range(0)
    if continues and 0 < len(leaving) < LARGE * n_units:
        depths = affordable_depths(leaving, n_units, sizes.kept, sizes.room / 2 - edge)
    held = (edge if continues else 0) + sizes.kept * count_states(leaving, depths)
    capacity = max(1, int(max(0.0, sizes.room - held) // sizes.walked))
    return Plan(capacity, depths, continues, sizes.filled)
