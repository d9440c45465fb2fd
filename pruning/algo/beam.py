"""Beam: like greedy, but keeps the `width` best sets of each size instead of one.

Source: the paper's search (3), B = 5. A set that is reached in two ways is scored once. Ties go to the set that was
reached first. With width 1, beam is greedy. If the width is large enough to keep all sets, beam is exhaustive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pruning.algo import Ask, Found, Proposals
from pruning.algo.lazy import Lazy, check_risk
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.space import Space


@dataclass(frozen=True)
class Beam:
    """Extends each of the best sets by every remaining block and keeps the best of the results.

    If `lazy` is given, unpromising candidates are skipped; it is the risk that this changes the search (`lazy.py`).
    """

    width: int = 5
    max_evaluations: int | None = None
    lazy: float | None = None

    def __post_init__(self) -> None:
        check_risk(self.lazy)
        if self.width < 1:
            raise InputError(f"algo.width={self.width} is too small: choose at least 1.")

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch per set size: the distinct sets that are one block larger than the kept sets."""
        kept: list[Mask] = [space.dense]
        rounds = None if self.lazy is None else Lazy(self.lazy, space.k)
        for size in range(1, space.k + 1):
            parents: dict[Mask, Mask] = {}
            for best in kept:
                for i in space.free(best.dropped):
                    parents.setdefault(best.drop(i), best)
            masks, wanted = list(parents), self.width if size < space.k else 1
            if rounds is None:
                losses = yield Ask(masks, best=wanted)
            else:
                scored = yield from rounds.scored(parents, wanted)
                losses = [scored.get(mask, math.inf) for mask in masks]
            kept = [masks[i] for i in np.argsort(losses, kind="stable")[: self.width]]
        return Found(kept[0], "k blocks were removed")

    def evaluations(self, space: Space) -> int:
        """The sum over set sizes of min(width, number of sets of that size) * (number of blocks left)."""
        free = len(space.free())
        return sum(min(self.width, math.comb(free, done)) * (free - done) for done in range(space.k))
