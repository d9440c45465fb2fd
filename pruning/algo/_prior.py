"""Tools of the stochastic searches: swaps of units, and a prior that favours units whose removal costs little.

The paper calls its genetic and Bayesian searches "prior-guided" without saying what the prior is. Here the prior uses
the same losses as one-shot. Unit i has the weight exp(-(s_i - min s) / (T * scale)). s_i is the loss if only unit i
is removed; on a budget, its rise divided by the cost of the unit. T is the setting `temperature`. scale is the median
of s_i - min s, so that T has the same effect for any unit of the loss. Sets are drawn unit by unit, without
replacement, in proportion to the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import Any, TypeAlias

import numpy as np

from pruning.algo import Known, Request, _exchange
from pruning.core.mask import Mask
from pruning.core.space import Space

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def singles(space: Space, known: Known) -> Generator[Request, Any, Array]:
    """The losses of removing each unit of `space.fitting()` alone. Use it with `yield from`.

    On a budget, these are the rises of the loss since the dense model, whose loss is asked for, too.
    """
    masks = [space.drop(i) for i in space.fitting()]
    if space.budget is None:
        return np.array((yield from known.ask(masks)))
    dense, *losses = yield from known.ask([space.dense, *masks])
    return np.array(losses) - dense


def n_singles(space: Space) -> int:
    """The number of losses that `singles` asks for."""
    return len(space.fitting()) + (space.budget is not None)


def rates(space: Space, losses: Array) -> Array:
    """What units are ranked by: the losses of `singles`, on a budget divided by the costs of the units."""
    return np.array([space.per_cost(loss, unit) for loss, unit in zip(losses, space.fitting(), strict=True)])


def one_shot(space: Space, losses: Array) -> Mask:
    """The mask of the units with the least `rates` that fit. Ties go to the lower index."""
    return ranked(space, rates(space, losses))


def ranked(space: Space, values: Array) -> Mask:
    """The mask of the units of `space.fitting()` with the least values that fit. Ties go to the lower index."""
    units = space.fitting()
    return space.filled((), (units[r] for r in np.argsort(values, kind="stable")))


def scale(losses: Array) -> float:
    """The spread of the losses: the median minus the minimum, or 1 if this difference is 0."""
    return float(np.median(losses) - losses.min()) or 1.0


def log_weights(losses: Array, temperature: float) -> Array:
    """Logarithms of the prior's weights, up to a constant."""
    weights: Array = (losses.min() - losses) / (temperature * scale(losses))
    return weights


def draw(space: Space, rng: np.random.Generator, weights: Array | None = None) -> Mask:
    """A random mask of the space. Without log-weights, all masks are equally likely if there is no budget.

    Gumbel noise is added to each log-weight. The k units with the largest sums are a draw without replacement in
    proportion to the weights (Kool, van Hoof and Welling, arXiv 1903.06059). Unlike `rng.choice`, this also works
    with very small weights. On a budget, units are taken in the order of the sums if they fit.
    """
    units = space.fitting()
    keys = rng.gumbel(size=len(units)) + (0.0 if weights is None else weights)
    return space.filled((), (units[r] for r in np.argsort(-keys)))


def swapped(mask: Mask, space: Space, rng: np.random.Generator, swaps: int = 1) -> Mask:
    """A mask that keeps `swaps` random removed units of this mask and removes as many random kept units instead.

    If the mask removes or keeps fewer than `swaps` units, as many units as possible are swapped. k is unchanged. On a
    budget, these are `swaps` exchanges (`_exchange.py`), one after the other.
    """
    if space.budget is not None:
        for _ in range(swaps):
            mask = _exchange.exchanged(mask, space, rng)
        return mask
    kept = space.free(mask.dropped)
    swaps = min(swaps, len(mask.dropped), len(kept))
    back = rng.choice(mask.dropped, swaps, replace=False)
    gone = rng.choice(kept, swaps, replace=False) if swaps else ()
    return space.drop(*(set(mask.dropped) - {int(i) for i in back}), *(int(i) for i in gone))


def neighbours(mask: Mask, space: Space) -> list[Mask]:
    """All k * (N - k) masks that differ from this one by one swap of units; on a budget, by one exchange."""
    if space.budget is not None:
        return list(_exchange.neighbours(mask, space))
    dropped, kept = mask.dropped, space.free(mask.dropped)
    return [space.drop(*(d for d in dropped if d != back), gone) for back in dropped for gone in kept]


def fresh(mask: Mask, taken: Collection[Mask], space: Space, rng: np.random.Generator) -> Mask:
    """The mask, if it is not in `taken`; otherwise the first mask outside `taken` on a random walk of swaps.

    The space must contain at least one mask that is not in `taken`.
    """
    if space.budget is not None:
        return _exchange.walked(mask, taken, space, rng)
    while mask in taken:
        mask = swapped(mask, space, rng)
    return mask


def scored_all(space: Space, known: Known) -> bool:
    """Whether every mask of the space has been scored."""
    known_masks, size = known.losses, space.size
    return len(known_masks) >= size and sum(mask in space for mask in known_masks) == size
