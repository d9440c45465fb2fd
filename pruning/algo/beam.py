"""Beam: greedy that keeps the `width` best sets of each size instead of one.

Source: the paper's search (3), B = 5. Sets that are reached in two ways are scored once. Ties go to the set that
was reached first. Width 1 is greedy; a width of all sets is exhaustive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pruning.algo import Ask, Found, Proposals
from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space


@dataclass(frozen=True)
class Beam:
    """Extend each of the best sets by every block that is left, and keep the best of all that come out."""

    width: int = 5
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InputError(f"algo.width={self.width} keeps no set: choose at least 1.")

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """One batch a depth, of distinct sets one block larger than those of the depth before."""
        kept: list[Mask] = [space.dense]
        for _ in range(space.k):
            grown = (best.drop(i) for best in kept for i in space.free(best.dropped))
            masks = list(dict.fromkeys(grown))
            losses = yield Ask(masks, best=self.width)
            kept = [masks[i] for i in np.argsort(losses, kind="stable")[: self.width]]
        return Found(kept[0], "k blocks were removed")

    def evaluations(self, space: Space) -> int:
        """At most min(width, sets of that size) * (blocks left) at each depth."""
        free = len(space.free())
        return sum(min(self.width, math.comb(free, done)) * (free - done) for done in range(space.k))
