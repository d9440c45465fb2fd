"""Code shared by searches: the prior, random masks, moves between masks, and greedy paths.

The paper calls its genetic and Bayesian searches "prior-guided" without defining the prior. Here s_i is the loss
if only unit i is removed or, if a share of the cost is removed, this loss's rise above the dense model's, per cost.
Unit i has the weight exp(-(s_i - min s) / (T * scale)); T is `temperature`, and scale the median of s_i - min s.

If k units are removed, a move is a swap: it restores one and removes another. If a share of the cost is removed, a
move is an exchange: it removes a kept unit, restores units until the share can be met again, and removes others
until it is met. So one exchange can remove an MLP and restore three attention layers. Exchanges can reach any mask.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Iterable
from functools import lru_cache
from itertools import count
from typing import Any, TypeAlias

import numpy as np

from pruning.algo import Known, Request, Rise
from pruning.algo.lazy import Rounds
from pruning.core.mask import Mask, Space, unit_noun

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

RANKS = ("cost", "loss")  # the values of `rank` in one_shot, greedy and beam; see "Rises per cost" below
STEPS = 200  # exchanges of a random walk; if none gives a new mask, the first of all new masks is taken


# Losses of single removals, and the one-shot set.


def singles(space: Space, known: Known) -> Generator[Request, Any, Array]:
    """The losses of removing each unit of `space.fitting()` alone.

    If a share of the cost is removed, the dense model's loss is also requested, and subtracted from these losses.
    """
    masks = [space.drop(i) for i in space.fitting()]
    if space.budget is None:
        return np.array((yield from known.ask(masks)))
    dense, *losses = yield from known.ask([space.dense, *masks])
    return np.array(losses) - dense


def n_singles(space: Space) -> int:
    """The number of losses that `singles` requests."""
    return len(space.fitting()) + (space.budget is not None)


def rates(space: Space, losses: Array) -> Array:
    """The values that rank units: their losses, divided by their costs if a share of the cost is removed."""
    return np.array([space.per_cost(loss, unit) for loss, unit in zip(losses, space.fitting(), strict=True)])


def one_shot(space: Space, losses: Array) -> Mask:
    """The mask that removes units in order of `rates`, lowest first, if they fit. Ties go to the lower index."""
    return ranked(space, rates(space, losses))


def ranked(space: Space, values: Array) -> Mask:
    """The mask that removes units of `space.fitting()` in order of `values`, lowest first, if they fit."""
    units = space.fitting()
    return space.filled((), (units[r] for r in np.argsort(values, kind="stable")))


def scale(losses: Array) -> float:
    """The spread of the losses: the median minus the minimum, or 1 if this difference is 0."""
    return float(np.median(losses) - losses.min()) or 1.0


def scored_all(space: Space, known: Known) -> bool:
    """Whether every mask of the space has been scored."""
    size = space.size
    return len(known.losses) >= size and sum(mask in space for mask in known.losses) == size


# Random masks.


def first_masks(
    space: Space, losses: Array, temperature: float, size: int, rng: np.random.Generator
) -> tuple[list[Mask], Array]:
    """`size` distinct masks (the one-shot set and draws from the prior), and the prior's log-weights."""
    weights = log_weights(rates(space, losses), temperature)
    return extended([one_shot(space, losses)], size, space, rng, weights), weights


def log_weights(values: Array, temperature: float) -> Array:
    """The logarithms of the prior's weights, up to a constant; `values` are the `rates` of the units."""
    weights: Array = (values.min() - values) / (temperature * scale(values))
    return weights


def draw(space: Space, rng: np.random.Generator, weights: Array | None = None) -> Mask:
    """A random mask of the space. Without `weights`, if k units are removed, all masks are equally likely.

    Gumbel noise is added to each log-weight. The k units with the largest sums are a draw without replacement in
    proportion to the weights (Kool, van Hoof and Welling, arXiv 1903.06059). Unlike `rng.choice`, this also works
    with very small weights. For a share of the cost, units are removed in order of sums, highest first, if they fit.
    """
    units = space.fitting()
    keys = rng.gumbel(size=len(units)) + (0.0 if weights is None else weights)
    return space.filled((), (units[r] for r in np.argsort(-keys)))


def extended(
    masks: list[Mask], size: int, space: Space, rng: np.random.Generator, weights: Array | None = None
) -> list[Mask]:
    """The given masks and new random ones: `size` distinct masks, or as many as the space has."""
    masks = list(masks)
    while len(masks) < min(size, space.size):
        masks.append(fresh(draw(space, rng, weights), masks, space, rng))
    return masks


def fresh(mask: Mask, taken: Collection[Mask], space: Space, rng: np.random.Generator) -> Mask:
    """The first mask outside `taken` on a random walk from `mask`; the space must contain such a mask.

    If a share of the cost is removed and STEPS steps find no such mask, the lexicographically first one is returned.
    """
    for _ in count() if space.budget is None else range(STEPS):
        if mask not in taken:
            return mask
        mask = swapped(mask, space, rng)
    return next(mask for mask in space.masks() if mask not in taken)


# Moves.


def swapped(mask: Mask, space: Space, rng: np.random.Generator, swaps: int = 1) -> Mask:
    """The mask after restoring `swaps` random units and removing as many kept ones.

    If the mask removes or keeps fewer than `swaps` units, as many as possible are swapped. If a share of
    the cost is removed, `swaps` random exchanges are made instead, one after the other.
    """
    if space.budget is not None:
        for _ in range(swaps):
            mask = exchanged(mask, space, rng)
        return mask
    kept = space.free(mask.dropped)
    swaps = min(swaps, len(mask.dropped), len(kept))
    back = rng.choice(mask.dropped, swaps, replace=False)
    gone = rng.choice(kept, swaps, replace=False) if swaps else ()
    return space.drop(*(set(mask.dropped) - {int(i) for i in back}), *(int(i) for i in gone))


def exchanged(mask: Mask, space: Space, rng: np.random.Generator) -> Mask:
    """The mask after one random exchange; `mask` itself only if no other unit can be removed."""
    kept = _others(mask, space)
    if not kept:
        return mask
    new = int(rng.choice(kept))
    back, order = rng.permutation(mask.dropped).tolist(), rng.permutation(kept).tolist()
    return _repaired(mask.drop(new), back, order, space)


@lru_cache(maxsize=64)
def neighbours(mask: Mask, space: Space) -> tuple[Mask, ...]:
    """The distinct masks after restoring one unit and removing another; `_repaired` puts them into the space.

    If k units are removed, and not a share of the cost, these are all k * (N - k) masks one swap from `mask`.
    """
    kept, found = _others(mask, space), dict[Mask, None]()
    for back in mask.dropped:
        rest = [unit for unit in mask.dropped if unit != back]
        for new in kept:
            found[_repaired(space.drop(*rest, new), rest, [*kept, back], space)] = None
    return tuple(found)


def within_kind(mask: Mask, space: Space, rng: np.random.Generator, swaps: int) -> Mask:
    """The mask after `swaps` random swaps of two units of one kind; fewer if no further swap stays in the space."""
    for _ in range(swaps):
        pairs = [
            (back, new)
            for back in mask.dropped
            for new in _others(mask, space)
            if space.kind(back) == space.kind(new) and _swap(mask, back, new, space) in space
        ]
        if not pairs:
            break
        mask = _swap(mask, *pairs[int(rng.integers(len(pairs)))], space)
    return mask


def _swap(mask: Mask, back: int, new: int, space: Space) -> Mask:
    return space.drop(*(set(mask.dropped) - {back}), new)


def _repaired(mask: Mask, back: Iterable[int], order: Iterable[int], space: Space) -> Mask:
    """A mask of the space: restore units of `back` until `mask` is extendable, then remove units in `order`.

    Restored units are removed again only if no unit of `order` fits.
    """
    removed, given = set(mask.dropped), list[int]()
    for unit in back:
        if space.extendable(space.drop(*removed)):
            break
        removed.discard(unit)
        given.append(unit)
    return space.filled(removed, [*order, *given])


def _others(mask: Mask, space: Space) -> list[int]:
    """The kept units that some mask of the space removes."""
    return [unit for unit in space.fitting() if unit not in mask.dropped]


# Rises per cost, and the greedy paths that follow them.
#
# Units can differ in cost, so the removal that raises the loss least may save little of the cost.
# `rank=cost` divides the rise by the unit's cost, as the greedy method for knapsacks does (Dantzig,
# Operations Research 5, 1957). `rank=loss` ignores the cost, as BlockPruner does (arXiv 2406.10594). If k
# units are removed, both rank by the loss. Ties go to the lower index.


def per_cost(space: Space, rank: str) -> bool:
    """Whether units are ranked by rise per cost. The search then also needs the loss of the dense model."""
    return space.budget is not None and rank == "cost"


def rise_since(base: Mask, masks: Iterable[Mask], space: Space) -> Rise:
    """A `Rise` since `base`; a mask's cost is that of the units that it removes and `base` does not."""
    return Rise(base, {mask: space.cost(*{*mask.dropped} - {*base.dropped}) for mask in masks})


def done(space: Space) -> str:
    """Why a search that removes one unit per round has stopped."""
    return "the budget was met" if space.budget is not None else f"k {unit_noun(space.unit)}s were removed"


def both_paths(space: Space, known: Known, rounds: Rounds) -> Generator[Request, Any, list[Mask]]:
    """The masks of two greedy paths: of single units and, over sub-layers, of whole blocks if any block fits.

    Greedy search over sub-layers can miss a better mask of blocks: removing one part of a block can raise the
    loss more than removing both. The second path removes whole blocks while they fit, and then single units; its mask
    is never worse than that of greedy search over blocks for the same share of the cost.
    """
    found = [(yield from _path(space, known, rounds, blocks=False))]
    if fitting_blocks(space, space.dense):
        found.append((yield from _path(space, known, Rounds(None, space.k), blocks=True)))
    return found


def _path(space: Space, known: Known, rounds: Rounds, blocks: bool) -> Generator[Request, Any, Mask]:
    """The mask of the space reached by greedy steps, each with the lowest rise of the loss per cost."""
    best = space.dense
    (before,) = yield from known.ask([best])
    rounds.know(best, before)
    while not space.complete(best):
        masks = fitting_blocks(space, best) if blocks else []
        masks = masks or [best.drop(i) for i in space.fitting(best.dropped)]
        rise = rise_since(best, masks, space)
        losses = yield from rounds.scored(dict.fromkeys(masks, best), 1, rise)
        # Infinities are dropped: a mask ruled out here can have the lowest loss, or rise since another mask.
        known.losses |= {mask: loss for mask, loss in losses.items() if math.isfinite(loss)}
        values = {mask: rise.rate(mask, losses.get(mask, math.inf), before) for mask in masks}
        best = min(masks, key=values.__getitem__)
        before = losses[best]
    return best


def fitting_blocks(space: Space, mask: Mask) -> list[Mask]:
    """The extendable masks that remove the units of `mask` and both sub-layers of one more block."""
    if space.unit != "sublayer":
        return []
    free = set(space.free(mask.dropped))
    pairs = [(2 * block, 2 * block + 1) for block in range(space.n_blocks)]
    larger = [mask.drop(*pair) for pair in pairs if free.issuperset(pair)]
    return [candidate for candidate in larger if space.extendable(candidate)]


def evaluations_by_blocks(space: Space) -> int:
    """An upper bound on the number of losses that the path of whole blocks requests."""
    first = fitting_blocks(space, space.dense)
    if not first:
        return 0
    pairs = [space.cost(*mask.dropped) for mask in first]
    least = min(space.cost(unit) for unit in space.fitting())
    rounds, last = space.k // 2, math.ceil(max(pairs) / least)
    return sum(len(first) - done for done in range(rounds)) + last * len(space.fitting())
