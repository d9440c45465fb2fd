"""How one_shot, greedy and beam rank units: by the rise of the loss per cost of the unit, or by the loss alone.

Units of a budget differ in cost, so the unit whose removal raises the loss least need not be the one that brings the
budget closest for this rise. `rank=cost` divides the rise by the unit's cost, as the greedy method for knapsacks does
(Dantzig, Operations Research 5, 1957). `rank=loss` takes the least loss whatever a unit costs, as BlockPruner does
(arXiv 2406.10594). Without a budget, all units cost the same, and both rank by the loss.
"""

from __future__ import annotations

from collections.abc import Iterable

from pruning.algo import Rise
from pruning.core.errors import InputError
from pruning.core.mask import Mask, unit_noun
from pruning.core.space import Space

RANKS = ("cost", "loss")


def check_rank(rank: str) -> None:
    """Raise InputError if the setting `rank` is unknown."""
    if rank not in RANKS:
        raise InputError(f"algo.rank={rank} is unknown: choose {' or '.join(RANKS)}.")


def per_cost(space: Space, rank: str) -> bool:
    """Whether units are ranked by rise per cost, for which the search needs the loss of the dense model, too."""
    return space.budget is not None and rank == "cost"


def rise_since(base: Mask, masks: Iterable[Mask], space: Space) -> Rise:
    """Compare masks by the rise of the loss since `base`, per cost of the units that `base` does not remove."""
    return Rise(base, {mask: space.cost(*{*mask.dropped} - {*base.dropped}) for mask in masks})


def done(space: Space) -> str:
    """Why a search that removes one unit per round has stopped."""
    if space.budget is not None:
        return "the budget was met"
    return f"k {unit_noun(space.unit)}s were removed"
