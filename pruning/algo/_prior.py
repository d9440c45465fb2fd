"""Tools of the stochastic searches: swaps of blocks, and a prior that favours blocks whose removal costs little.

The paper calls its genetic and Bayesian searches "prior-guided" without saying what the prior is. Here the prior uses
the same losses as one-shot. Block i has the weight exp(-(s_i - min s) / (T * scale)). s_i is the loss if only block i
is removed. T is the setting `temperature`. scale is the median of s_i - min s, so that T has the same effect for any
unit of the loss. Sets are drawn block by block, without replacement, in proportion to the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import Any, TypeAlias

import numpy as np

from pruning.algo import Known, Request
from pruning.core.mask import Mask
from pruning.core.space import Space

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def singles(space: Space, known: Known) -> Generator[Request, Any, Array]:
    """The losses of removing each block of `space.free()` alone. Use it with `yield from`."""
    return np.array((yield from known.ask([space.drop(i) for i in space.free()])))


def one_shot(space: Space, losses: Array) -> Mask:
    """The mask of the k blocks whose single removals have the lowest losses. Ties go to the lower index."""
    blocks = space.free()
    return space.drop(*(blocks[r] for r in np.argsort(losses, kind="stable")[: space.k]))


def scale(losses: Array) -> float:
    """The spread of the losses: the median minus the minimum, or 1 if this difference is 0."""
    return float(np.median(losses) - losses.min()) or 1.0


def log_weights(losses: Array, temperature: float) -> Array:
    """Logarithms of the prior's weights, up to a constant."""
    weights: Array = (losses.min() - losses) / (temperature * scale(losses))
    return weights


def draw(space: Space, rng: np.random.Generator, weights: Array | None = None) -> Mask:
    """A random mask of the space. Without log-weights, all masks are equally likely.

    Gumbel noise is added to each log-weight. The k blocks with the largest sums are a draw without replacement in
    proportion to the weights (Kool, van Hoof and Welling, arXiv 1903.06059). Unlike `rng.choice`, this also works
    with very small weights.
    """
    blocks = space.free()
    keys = rng.gumbel(size=len(blocks)) + (0.0 if weights is None else weights)
    return space.drop(*(blocks[r] for r in np.argsort(-keys)[: space.k]))


def swapped(mask: Mask, space: Space, rng: np.random.Generator, swaps: int = 1) -> Mask:
    """A mask that keeps `swaps` random removed blocks of this mask and removes as many random kept blocks instead.

    If the mask removes or keeps fewer than `swaps` blocks, as many blocks as possible are swapped. k is unchanged.
    """
    kept = space.free(mask.dropped)
    swaps = min(swaps, len(mask.dropped), len(kept))
    back = rng.choice(mask.dropped, swaps, replace=False)
    gone = rng.choice(kept, swaps, replace=False) if swaps else ()
    return space.drop(*(set(mask.dropped) - {int(i) for i in back}), *(int(i) for i in gone))


def neighbours(mask: Mask, space: Space) -> list[Mask]:
    """All k * (N - k) masks that differ from this one by one swap of blocks."""
    dropped, kept = mask.dropped, space.free(mask.dropped)
    return [space.drop(*(d for d in dropped if d != back), gone) for back in dropped for gone in kept]


def fresh(mask: Mask, taken: Collection[Mask], space: Space, rng: np.random.Generator) -> Mask:
    """The mask, if it is not in `taken`; otherwise the first mask outside `taken` on a random walk of swaps.

    The space must contain at least one mask that is not in `taken`.
    """
    while mask in taken:
        mask = swapped(mask, space, rng)
    return mask


def scored_all(space: Space, known: Known) -> bool:
    """Whether every mask of the space has been scored."""
    return sum(len(mask.dropped) == space.k for mask in known.losses) == space.size
