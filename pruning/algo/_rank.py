"""How one_shot, greedy and beam rank units: by the rise of the loss per cost of the unit, or by the loss alone.

Units of a budget differ in cost, so the unit whose removal raises the loss least need not be the one that brings the
budget closest for this rise. `rank=cost` divides the rise by the unit's cost, as the greedy method for knapsacks does
(Dantzig, Operations Research 5, 1957). `rank=loss` takes the least loss whatever a unit costs, as BlockPruner does
(arXiv 2406.10594). Without a budget, all units cost the same, and both rank by the loss.
"""

from __future__ import annotations

from pruning.core.errors import InputError
from pruning.core.mask import unit_noun
from pruning.core.space import Space

RANKS = ("cost", "loss")


def check_rank(rank: str) -> None:
    """Raise InputError if the setting `rank` is unknown."""
    if rank not in RANKS:
        raise InputError(f"algo.rank={rank} is unknown: choose {' or '.join(RANKS)}.")


def per_cost(space: Space, rank: str) -> bool:
    """Whether units are ranked by rise per cost, for which the search needs the loss of the dense model, too."""
    return space.budget is not None and rank == "cost"


def check_lazy(space: Space, rank: str, lazy: float | None) -> None:
    """Raise InputError if a search that ranks by rise per cost is lazy: `lazy.py` predicts which loss is least."""
    if lazy is not None and per_cost(space, rank):
        raise InputError(
            f"algo.lazy={lazy:g} does not work with a budget of costs and algo.rank=cost: choose algo.lazy=null, "
            "algo.rank=loss, or k in place of ratio."
        )


def done(space: Space) -> str:
    """Why a search that removes one unit per round has stopped."""
    if space.budget is not None:
        return "the budget was met"
    return f"k {unit_noun(space.unit)}s were removed"
