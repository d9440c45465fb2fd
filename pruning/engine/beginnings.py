"""Hidden states that later masks can start from: the states after common beginnings of masks.

A beginning is a depth and the dropped blocks below it; masks with the same beginning have the same state there. Two
kinds of states are kept, so that no block runs twice on the same state:

- If masks are walked in several groups, those of a later group start where they leave the path of the last mask
  before them. These states are always kept.
- The next request of a search often has the same beginnings. After greedy search has dropped block c, it asks for
  masks that drop a block j as well. For j < c, each begins as a mask of the round before, down to block c. If c is in
  the middle, this saves a quarter of a round's block forwards. These states are kept at every s-th depth, with the
  smallest s for which they fit into memory, unless the request is so large that no related one is likely to follow.

All states are exact, so losses do not depend on what is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from torch import Tensor

from pruning.engine.batching import Batch

if TYPE_CHECKING:
    from pruning.core.mask import Mask

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
