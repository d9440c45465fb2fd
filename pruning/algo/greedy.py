"""Greedy: in each of k rounds, score the removal of every remaining block and make the removal of lowest loss.

Source: SLEB (arXiv 2402.09025, algorithm 1); the paper's search (2). SLEB protects the first and the last block; to
do the same here, set `protect.first=1 protect.last=1`. Ties go to the lower index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pruning.algo import Ask, Found, Proposals
from pruning.algo.lazy import Lazy, check_risk
from pruning.core.mask import Mask
from pruning.core.space import Space


@dataclass(frozen=True)
class Greedy:
    """Each removal takes the earlier removals into account. No removal is undone.

    If `lazy` is given, unpromising candidates are skipped; it is the risk that this changes the search (`lazy.py`).
    """

    max_evaluations: int | None = None
    lazy: float | None = None

    def __post_init__(self) -> None:
        check_risk(self.lazy)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch per round; each mask removes the previous winner's blocks and one more."""
        best: Mask = space.dense
        rounds = None if self.lazy is None else Lazy(self.lazy, space.k)
        while len(best.dropped) < space.k:
            masks = [best.drop(i) for i in space.free(best.dropped)]
            if rounds is not None:
                losses = yield from rounds.scored(dict.fromkeys(masks, best), 1)
                best = min(masks, key=lambda mask: losses.get(mask, math.inf))
            else:
                best = masks[int(np.argmin((yield Ask(masks, best=1))))]
        return Found(best, "k blocks were removed")

    def evaluations(self, space: Space) -> int:
        """N + (N - 1) + ..., one term for each of the k rounds."""
        free = len(space.free())
        return sum(free - done for done in range(space.k))
