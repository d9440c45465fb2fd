"""Exchanges of units in a space with a budget, where one unit can take the place of several cheaper ones.

An exchange removes a kept unit, gives back removed units until the budget can be met again, and removes other units
until it is met. So an MLP can take the place of three attentions, and the other way round. From any mask, random
exchanges can lead to any other: each can bring in one unit more of the other mask.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache

import numpy as np

from pruning.core.mask import Mask, Space

STEPS = 200  # exchanges of a random walk, after which a new mask is taken from the list of all masks


def exchanged(mask: Mask, space: Space, rng: np.random.Generator) -> Mask:
    """The mask after one random exchange. It differs from the mask unless the space has no other unit."""
    kept = others(mask, space)
    if not kept:
        return mask
    new = int(rng.choice(kept))
    back, order = rng.permutation(mask.dropped).tolist(), rng.permutation(kept).tolist()
    return repaired(mask.drop(new), back, order, space)


def repaired(mask: Mask, back: Iterable[int], order: Iterable[int], space: Space) -> Mask:
    """A mask of the space: give back the first units of `back` until the rest fits, then remove the first of `order`.

    Units that were given back are removed again only if no unit of `order` fits.
    """
    removed, given = set(mask.dropped), list[int]()
    for unit in back:
        if space.extendable(space.drop(*removed)):
            break
        removed.discard(unit)
        given.append(unit)
    return space.filled(removed, [*order, *given])


@lru_cache(maxsize=64)
def neighbours(mask: Mask, space: Space) -> tuple[Mask, ...]:
    """The distinct masks after an exchange of each removed unit for each kept one, repaired in the order of units."""
    kept, found = others(mask, space), dict[Mask, None]()
    for back in mask.dropped:
        rest = [unit for unit in mask.dropped if unit != back]
        for new in kept:
            found[repaired(space.drop(*rest, new), rest, [*kept, back], space)] = None
    return tuple(found)


def walked(mask: Mask, taken: Collection[Mask], space: Space, rng: np.random.Generator) -> Mask:
    """The first mask outside `taken` on a random walk of exchanges, or, if the walk finds none, in order of units."""
    for _ in range(STEPS):
        if mask not in taken:
            return mask
        mask = exchanged(mask, space, rng)
    return next(mask for mask in space.masks() if mask not in taken)


def within_kind(mask: Mask, space: Space, rng: np.random.Generator, swaps: int) -> Mask:
    """The mask after `swaps` random swaps of two units of the same kind; fewer if no such swap stays in the space."""
    for _ in range(swaps):
        pairs = [
            (back, new)
            for back in mask.dropped
            for new in others(mask, space)
            if space.kind(back) == space.kind(new) and _meets(mask, back, new, space)
        ]
        if not pairs:
            break
        back, new = pairs[int(rng.integers(len(pairs)))]
        mask = space.drop(*(set(mask.dropped) - {back}), new)
    return mask


def others(mask: Mask, space: Space) -> list[int]:
    """The kept units that some mask of the space removes."""
    return [unit for unit in space.fitting() if unit not in mask.dropped]


def _meets(mask: Mask, back: int, new: int, space: Space) -> bool:
    if space.budget is None:
        return True
    spent = space.cost(*mask.dropped) - space.cost(back) + space.cost(new)
    return space.budget.least <= spent <= space.budget.most
