"""The space of masks that a search may return. This module does not use torch.

A space holds the masks that remove exactly k units, or, with a budget, the masks whose removed units together cost
what the budget asks for (`unit_costs.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from pruning.core import unit_costs
from pruning.core.errors import InputError
from pruning.core.mask import Mask, unit_noun
from pruning.core.search_record import SearchRecord
from pruning.core.unit_costs import Budget


@dataclass(frozen=True, slots=True)
class Space:
    """All masks that remove exactly `k` units, or what `budget` asks for, and none of the `protected` units.

    With a budget, `k` is the largest number of units that any mask of the space removes.
    """

    n_blocks: int
    k: int
    protected: frozenset[int] = frozenset()
    unit: str = "block"
    budget: Budget | None = None

    def __post_init__(self) -> None:
        Mask(self.n_blocks, tuple(self.protected), self.unit)  # raises InputError if a unit does not exist
        if self.budget is None:
            self._check_count()

    def _check_count(self) -> None:
        noun = unit_noun(self.unit)
        open_units = self.n_units - len(self.protected)
        most = min(self.n_units - 1, open_units)
        if most < 1:
            raise InputError(
                f"no {noun} can be removed: the model has {self.n_units}, {len(self.protected)} of them "
                "protected, and at least one must stay. Protect fewer blocks (protect.first, protect.last), or "
                "choose a model of more blocks."
            )
        if not 1 <= self.k < self.n_units:
            raise InputError(
                f"k = {self.k} {noun}s cannot be removed from a model of {self.n_units}: "
                f"choose {f'k from 1 to {most}' if most > 1 else 'k=1'}."
            )
        if self.k > open_units:
            raise InputError(
                f"k = {self.k} is more than the {open_units} unprotected {noun}s of {self.n_units}: "
                "lower k or ratio, or protect fewer blocks (protect.first, protect.last)."
            )

    @property
    def n_units(self) -> int:
        """The number of units of the model."""
        return self.dense.n_units

    @property
    def size(self) -> int:
        """Number of masks in the space; without a budget, (n_units - protected) choose k."""
        if self.budget is None:
            return math.comb(self.n_units - len(self.protected), self.k)
        return unit_costs.count(self.budget, tuple(self.free()))

    def masks(self) -> Iterator[Mask]:
        """All masks of the space, in lexicographic order."""
        free = self.free()
        chosen = combinations(free, self.k) if self.budget is None else unit_costs.sets(self.budget, free)
        return (self.drop(*units) for units in chosen)

    @property
    def dense(self) -> Mask:
        """The mask that removes nothing."""
        return Mask(self.n_blocks, (), self.unit)

    def free(self, dropped: Iterable[int] = ()) -> list[int]:
        """The unprotected units outside `dropped`, in order."""
        closed = self.protected | set(dropped)
        return [i for i in range(self.n_units) if i not in closed]

    def drop(self, *indices: int) -> Mask:
        """The mask that removes the units `indices`; it need not be in the space."""
        return Mask(self.n_blocks, indices, self.unit)

    def cost(self, *indices: int) -> int:
        """What units cost together; without a budget, their number."""
        return len(indices) if self.budget is None else sum(self.budget.costs[i] for i in indices)

    def complete(self, mask: Mask) -> bool:
        """Whether a mask removes as much as the space asks for."""
        if self.budget is None:
            return len(mask.dropped) == self.k
        return self.budget.least <= self.cost(*mask.dropped) <= self.budget.most

    def __contains__(self, mask: Mask) -> bool:
        return (mask.n_blocks, mask.unit) == (self.n_blocks, self.unit) and (
            self.complete(mask) and not self.protected & set(mask.dropped)
        )

    def fitting(self, dropped: Iterable[int] = ()) -> list[int]:
        """The units that can be removed as well, so that the result is in the space or can be extended to it.

        Without `dropped`, these are the units that some mask of the space removes.
        """
        removed = set(dropped)
        others = self.free(removed)
        if self.budget is None:
            return others if len(removed) < self.k else []
        return unit_costs.fitting(self.budget, self.cost(*removed), others)

    def extendable(self, mask: Mask) -> bool:
        """Whether a mask is in the space or can be extended to a mask of the space."""
        inside = not self.protected & set(mask.dropped)
        return inside and (self.complete(mask) or bool(self.fitting(mask.dropped)))

    def filled(self, dropped: Iterable[int], order: Iterable[int]) -> Mask:
        """The units `dropped` and, in this order, the first units that fit, until the mask is in the space.

        A unit that does not fit never fits later. So the result is in the space if `dropped` can be extended to a
        mask of the space and `order` has all other units.
        """
        mask = self.drop(*dropped)
        if self.budget is None:  # the same, faster
            closed, left = self.protected | set(mask.dropped), max(0, self.k - len(mask.dropped))
            return mask.drop(*[unit for unit in dict.fromkeys(order) if unit not in closed][:left])
        fits: set[int] | None = None  # None: not known yet
        for unit in order:
            if self.complete(mask):
                break
            fits = set(self.fitting(mask.dropped)) if fits is None else fits
            if unit in fits:
                mask, fits = mask.drop(unit), None
        return mask

    def kind(self, unit: int) -> str:
        """What a unit is: `block`, or of a sub-layer `attention` or `mlp`."""
        return "block" if self.unit == "block" else ("attention", "mlp")[unit % 2]

    def per_cost(self, rise: float, unit: int) -> float:
        """A rise of the loss, divided by the cost of the unit that caused it; without a budget, the rise itself."""
        return rise if self.budget is None else rise / self.budget.costs[unit]


def space_of(mask: Mask, search: SearchRecord) -> Space:
    """The space of a finished search, from its final mask and its record. No units are protected in it."""
    if (record := search.get("budget")) is None:
        return Space(mask.n_blocks, len(mask.dropped), unit=mask.unit)
    budget = Budget(tuple(record["costs"]), record["least"], record["most"])
    return Space(
        mask.n_blocks, unit_costs.most_units(budget, range(mask.n_units)), frozenset(), mask.unit, budget
    )
