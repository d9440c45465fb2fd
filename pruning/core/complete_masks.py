"""Which masks of a finished cell are complete: they remove as much as the cell had to remove."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pruning.core import unit_costs
from pruning.core.search_record import BudgetRecord
from pruning.core.unit_costs import Budget


def is_complete(dropped: Collection[int], k: int, budget: BudgetRecord | None) -> bool:
    """Whether `dropped` are k units or, with a budget, units whose costs sum to `least`..`most`.

    A trace also holds masks that a search scored on the way, and they are not complete.
    """
    if budget is None:
        return len(dropped) == k
    return budget["least"] <= sum(budget["costs"][unit] for unit in dropped) <= budget["most"]


def count(budget: BudgetRecord, free: Sequence[int]) -> int:
    """The number of complete masks over the units `free`."""
    return unit_costs.count(Budget(tuple(budget["costs"]), budget["least"], budget["most"]), tuple(free))
