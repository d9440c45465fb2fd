"""How one_shot, greedy and beam rank units: by the rise of the loss per cost of the unit, or by the loss alone.

On a budget, units differ in cost, so the unit whose removal raises the loss least need not be the one that brings the
budget closest for this rise. `rank=cost` divides the rise by the unit's cost, as the greedy method for knapsacks does
(Dantzig, Operations Research 5, 1957). `rank=loss` takes the least loss whatever a unit costs, as BlockPruner does
(arXiv 2406.10594). Without a budget, both rank by the loss.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from typing import Any

from pruning.algo import Known, Request, Rise
from pruning.algo.lazy import Lazy
from pruning.core.mask import Mask, Space, unit_noun

RANKS = ("cost", "loss")


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


def both_paths(
    space: Space, known: Known, rounds: Lazy | None = None, blocks: bool = True
) -> Generator[Request, Any, list[Mask]]:
    """The mask that steps of single units lead to and, with `blocks`, the one of whole blocks, if any fits.

    Greedy over sub-layers can miss a mask of whole blocks that is better than all it finds, because removing one part
    of a block can cost much where removing both costs little. The second path removes whole blocks while they fit,
    and then single units; it is never worse than greedy over blocks at the same budget.
    """
    found = [(yield from _path(space, known, rounds, blocks=False))]
    if blocks and fitting_blocks(space, space.dense):
        found.append((yield from _path(space, known, None, blocks=True)))
    return found


def _path(space: Space, known: Known, rounds: Lazy | None, blocks: bool) -> Generator[Request, Any, Mask]:
    """The mask of the space to which the steps of least rise of the loss per cost lead."""
    best = space.dense
    (before,) = yield from known.ask([best])
    if rounds is not None:
        rounds.know(best, before)
    while not space.complete(best):
        masks = fitting_blocks(space, best) if blocks else []
        masks = masks or [best.drop(i) for i in space.fitting(best.dropped)]
        rise = rise_since(best, masks, space)
        if rounds is None:
            losses = dict(zip(masks, (yield from known.ask(masks, 1, rise)), strict=True))
        else:
            losses = yield from rounds.scored(dict.fromkeys(masks, best), 1, rise)
        rates = {mask: rise.rate(mask, losses.get(mask, math.inf), before) for mask in masks}
        best = min(masks, key=rates.__getitem__)
        before = known.losses[best] = losses[best]
    return best


def fitting_blocks(space: Space, mask: Mask) -> list[Mask]:
    """The masks that remove both parts of one block more and can be extended to a mask of the space."""
    if space.unit != "sublayer":
        return []
    free = set(space.free(mask.dropped))
    pairs = [(2 * block, 2 * block + 1) for block in range(space.n_blocks)]
    larger = [mask.drop(*pair) for pair in pairs if free.issuperset(pair)]
    return [candidate for candidate in larger if space.extendable(candidate)]


def evaluations_by_blocks(space: Space) -> int:
    """The most losses that the path of whole blocks asks for."""
    first = fitting_blocks(space, space.dense)
    if not first:
        return 0
    pairs = [space.cost(*mask.dropped) for mask in first]
    least = min(space.cost(unit) for unit in space.fitting())
    rounds, last = space.k // 2, math.ceil(max(pairs) / least)
    return sum(len(first) - done for done in range(rounds)) + last * len(space.fitting())
