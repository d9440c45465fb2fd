"""Budgets: what units cost, and which sets of them cost what a budget asks for.

Costs are parameters or milliseconds, as whole parts of SCALE of the sum over all units. So all sums up to a budget
fit into one integer, whose bit s says whether some set of units costs exactly s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pruning.core.errors import InputError

SCALE = 10_000


@dataclass(frozen=True)
class Budget:
    """The cost of every unit, and the least and the most that removed units may cost together."""

    costs: tuple[int, ...]
    least: int
    most: int


def budget(values: Sequence[float], ratio: float, free: Sequence[int]) -> Budget:
    """A budget of `ratio` of all `values`; the sum of removed units may differ by half of the smallest free unit.

    At least one unit stays.
    Raises InputError if no set of the units `free` reaches it.
    """
    total = sum(values)
    costs = tuple(max(1, round(SCALE * value / total)) for value in values)
    target, half = ratio * SCALE, min((costs[i] for i in free), default=0) / 2
    most = min(int(target + half), sum(costs) - min(costs))
    made = Budget(costs, max(1, -int(-(target - half) // 1)), most)
    if not fitting(made, 0, free):
        open_share = sum(costs[i] for i in free) / SCALE
        reason = (
            f"the units that can be removed are only {open_share:.3g} of them"
            if open_share < ratio
            else "nothing would be left of the model"
            if made.least > most
            else f"no set of units comes as close as {half / SCALE:.2g} to it"
        )
        raise InputError(
            f"ratio={ratio:g} of the blocks' costs cannot be removed: {reason}. Choose another ratio, give k, or "
            "protect fewer blocks (protect.first, protect.last)."
        )
    return made


def fitting(budget: Budget, spent: int, others: Sequence[int]) -> list[int]:
    """Those of the units `others` that can be removed so that the budget can still be met by some of the rest."""
    costs = tuple(sorted(budget.costs[i] for i in others))
    allowed = {cost for cost in set(costs) if _can_follow(budget, spent + cost, costs, cost)}
    return [i for i in others if budget.costs[i] in allowed]


@lru_cache(maxsize=256)
def count(budget: Budget, free: tuple[int, ...]) -> int:
    """The number of sets of the units `free` that meet the budget."""
    ways = np.zeros(budget.most + 1, dtype=object)
    ways[0] = 1
    for cost in (budget.costs[i] for i in free):
        if cost <= budget.most:
            ways[cost:] = ways[cost:] + ways[: len(ways) - cost]
    return int(ways[budget.least :].sum())


def sets(budget: Budget, free: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All sets of the units `free` that meet the budget, in lexicographic order."""
    costs, reachable = [budget.costs[i] for i in free], [1]
    for cost in reversed(costs):  # bit s of reachable[i]: some of the units from number i on cost s
        reachable.append(_plus(reachable[-1], cost, budget.most))
    reachable.reverse()

    def extended(chosen: tuple[int, ...], spent: int, start: int) -> Iterator[tuple[int, ...]]:
        if spent >= budget.least:
            yield chosen
        for i in range(start, len(free)):
            if _meets(budget, reachable[i + 1], spent + costs[i]):
                yield from extended((*chosen, free[i]), spent + costs[i], i + 1)

    return extended((), 0, 0)


def most_units(budget: Budget, free: Sequence[int]) -> int:
    """The largest number of the units `free` that together meet the budget; -1 if none do."""
    units = np.full(
        budget.most + 1, -len(budget.costs) - 1
    )  # the most units that cost s; negative if none do
    units[0] = 0
    for cost in (budget.costs[i] for i in free):
        if cost <= budget.most:
            units[cost:] = np.maximum(units[cost:], units[: len(units) - cost] + 1)
    return max(-1, int(units[budget.least :].max()))


@lru_cache(maxsize=65_536)
def _can_follow(budget: Budget, spent: int, costs: tuple[int, ...], used: int) -> bool:
    """Whether some of the `costs`, except one of `used`, bring the sum from `spent` into the budget."""
    rest = list(costs)
    rest.remove(used)
    sums = 1
    for cost in rest:
        sums = _plus(sums, cost, budget.most)
    return _meets(budget, sums, spent)


def _plus(sums: int, cost: int, most: int) -> int:
    """The sums, as bits, that a set and perhaps one more unit reach; sums above `most` are left out."""
    return (sums | sums << cost) & ((1 << (most + 1)) - 1)


def _meets(budget: Budget, sums: int, spent: int) -> bool:
    """Whether `spent` and one of the sums together meet the budget."""
    if spent > budget.most:
        return False
    allowed = sums & ((1 << (budget.most - spent + 1)) - 1)
    return allowed >> max(0, budget.least - spent) != 0
