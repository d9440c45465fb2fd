"""Budgets: what units cost, and which sets of them cost what a budget asks for.

Costs are parameters or milliseconds, as whole parts of SCALE of the sum over all units. So all sums up to a budget
fit into one integer, whose bit s says whether some set of units costs exactly s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

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

    Raises InputError if no set of the units `free` reaches it.
    """
    total = sum(values)
    costs = tuple(max(1, round(SCALE * value / total)) for value in values)
    target, half = ratio * SCALE, min((costs[i] for i in free), default=0) / 2
    made = Budget(costs, max(1, -int(-(target - half) // 1)), int(target + half))
    if not fitting(made, 0, free):
        most = sum(costs[i] for i in free) / SCALE
        reason = (
            f"the units that can be removed are only {most:.3g} of them"
            if most < ratio
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


def count(budget: Budget, free: Sequence[int]) -> int:
    """The number of sets of the units `free` that meet the budget."""
    ways = np.zeros(budget.most + 1, dtype=object)
    ways[0] = 1
    for cost in (budget.costs[i] for i in free):
        if cost <= budget.most:
            ways[cost:] = ways[cost:] + ways[: len(ways) - cost]
    return int(ways[budget.least :].sum())


def most_units(budget: Budget, free: Sequence[int]) -> int:
    """The largest number of units that can be removed for the budget."""
    sums = accumulate(sorted(budget.costs[i] for i in free))
    return sum(total <= budget.most for total in sums)


@lru_cache(maxsize=65_536)
def _can_follow(budget: Budget, spent: int, costs: tuple[int, ...], used: int) -> bool:
    """Whether some of the `costs`, except one of `used`, bring the sum from `spent` into the budget."""
    if spent > budget.most:
        return False
    rest = list(costs)
    rest.remove(used)
    sums, limit = 1, (1 << (budget.most - spent + 1)) - 1  # bit s: some set of costs has the sum s
    for cost in rest:
        sums = (sums | sums << cost) & limit
    return sums >> max(0, budget.least - spent) != 0
