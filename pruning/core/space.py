"""The space of masks that a search may return. This module does not use torch.

A space holds the masks that remove exactly k units, or, with a budget, the masks whose removed units together cost
what the budget asks for (`unit_costs.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
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


def check_size(ratio: float | None, k: int | None) -> None:
    """Raise InputError unless exactly one of `ratio` and `k` is given and its value is possible for some model."""
    if (ratio is None) == (k is None):
        if k is None:
            raise InputError("give either ratio or k, not both: neither is given.")
        raise InputError(
            f"give either ratio or k, not both: both are given (ratio={ratio}, k={k}). If an experiment sets the "
            "ratio, ratio=null removes it."
        )
    if ratio is not None and not 0 < ratio < 1:
        raise InputError(f"ratio={ratio:g} is not a fraction of the blocks: choose one above 0 and below 1.")
    if k is not None and k < 1:
        raise InputError(f"k={k} removes no block: choose 1 or more.")


def block_count(n_blocks: int, ratio: float | None, k: int | None) -> int:
    """Number of blocks to remove: `k` itself, or round(ratio * n_blocks).

    Raises InputError if `check_size` does, and if round(ratio * n_blocks) is 0 or all blocks of several.
    """
    check_size(ratio, k)
    if ratio is None:
        assert k is not None
        return k
    rounded = round(ratio * n_blocks)
    if rounded == 0:
        raise InputError(
            f"ratio={ratio:g} of {n_blocks} blocks rounds to no block: "
            f"choose at least {1 / n_blocks:.3f}, or give k=1."
        )
    if rounded == n_blocks > 1:
        raise InputError(
            f"ratio={ratio:g} of {n_blocks} blocks rounds to all of them: choose at most "
            f"{(n_blocks - 1) / n_blocks:.3f}, or give k={n_blocks - 1}."
        )
    return rounded


def space(n_blocks: int, ratio: float | None, k: int | None, first: int = 0, last: int = 0) -> Space:
    """The space of whole blocks; `first` blocks at the start and `last` blocks at the end are protected."""
    return Space(n_blocks, block_count(n_blocks, ratio, k), protected_blocks(n_blocks, first, last))


def sublayer_space(
    n_blocks: int,
    ratio: float | None,
    k: int | None,
    costs: Sequence[float],
    kinds: str = "am",
    first: int = 0,
    last: int = 0,
) -> Space:
    """The space of sub-layers of some `kinds`: `a` for attention, `m` for MLPs, `am` for both.

    With a `ratio`, the removed sub-layers have this share of the `costs` of all 2N sub-layers, as close as the costs
    allow. With `k`, k of them are removed, whatever they cost.

    Raises InputError if the ratio or k cannot be reached.
    """
    check_size(ratio, k)
    blocks = protected_blocks(n_blocks, first, last)
    protected = frozenset(u for u in range(2 * n_blocks) if u // 2 in blocks or "am"[u % 2] not in kinds)
    if ratio is None:
        assert k is not None
        return Space(n_blocks, k, protected, "sublayer")
    return cost_space(n_blocks, ratio, costs, protected, "sublayer")


def cost_space(
    n_blocks: int, ratio: float, costs: Sequence[float], protected: frozenset[int], unit: str
) -> Space:
    """The space of units with a share `ratio` of the `costs` of all; there is a cost for each unit of the model.

    Raises InputError if the unprotected units cannot reach the ratio.
    """
    free = [i for i in range(len(costs)) if i not in protected]
    budget = unit_costs.budget(costs, ratio, free)
    return Space(n_blocks, unit_costs.most_units(budget, free), protected, unit, budget)


def protected_blocks(n_blocks: int, first: int, last: int) -> frozenset[int]:
    """The first and the last blocks that are kept. Raises InputError if these numbers are impossible."""
    if first < 0 or last < 0:
        raise InputError(f"protect.first={first} and protect.last={last}: neither may be negative.")
    if first + last >= n_blocks > 0:
        raise InputError(
            f"protect.first={first} and protect.last={last} protect all of {n_blocks} blocks: "
            f"choose numbers with a sum below {n_blocks}."
        )
    return frozenset(range(first)) | frozenset(range(n_blocks - last, n_blocks))
