"""Greedy search. Sources: search 2 of arXiv 2604.24938; SLEB (arXiv 2402.09025, algorithm 1), which protects the
first and the last block (`protect.first=1 protect.last=1`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pruning.algo import Found, Known, Proposals
from pruning.algo._moves import RANKS, both_paths, done, evaluations_by_blocks, per_cost
from pruning.algo.lazy import Rounds, check_risk
from pruning.core.errors import check_known
from pruning.core.mask import Mask, Space


@dataclass(frozen=True)
class Greedy:
    """In each of k rounds, scores the removal of each remaining unit and carries out the best one.

    If a share of the cost is removed, `rank=cost` removes the unit of lowest rise of the loss per cost and,
    over sub-layers, adds a second path of whole blocks; the better of the two masks is the answer. `lazy`
    is the accepted risk that skipping unpromising candidates changes the mask (`lazy.py`).
    """

    lazy: float | None = None
    rank: str = "cost"

    def __post_init__(self) -> None:
        check_risk(self.lazy)
        check_known("algo", self, rank=RANKS)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Request one batch per round; each of its masks removes the units of earlier rounds and one more."""
        rounds = Rounds(self.lazy, space.k)
        if per_cost(space, self.rank):
            known = Known()
            found = yield from both_paths(space, known, rounds)
            return Found(min(found, key=known.losses.__getitem__), done(space))
        best: Mask = space.dense
        while not space.complete(best):
            masks = [best.drop(i) for i in space.fitting(best.dropped)]
            losses = yield from rounds.scored(dict.fromkeys(masks, best), 1)
            best = min(masks, key=lambda mask: losses.get(mask, math.inf))
        return Found(best, done(space))

    def evaluations(self, space: Space) -> int:
        """N + (N - 1) + ..., one term per round; for a share of the cost, also the dense model and whole blocks."""
        units = len(space.fitting())
        more = 1 + evaluations_by_blocks(space) if per_cost(space, self.rank) else 0
        return sum(units - done for done in range(space.k)) + more
