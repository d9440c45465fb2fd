"""Beam search. Source: search 3 of arXiv 2604.24938, B = 5."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pruning.algo import Found, Known, Proposals
from pruning.algo._moves import RANKS, done, per_cost, rise_since
from pruning.algo.lazy import Rounds, check_risk
from pruning.core.errors import check_known, check_least
from pruning.core.mask import Mask, Space


@dataclass(frozen=True)
class Beam:
    """Like greedy, but keeps the `width` best sets of each size. If it keeps all sets, the search is exhaustive.

    Ties go to the set that was reached first. If the goal is a share of the cost, the answer is the lowest-loss set
    that meets it. With `rank=cost`, sets that do not meet it yet are compared by (loss - dense loss) / cost. Greedy
    uses the rise since the previous round, so even `width=1` can give another result. `lazy` is as in `Greedy`.
    """

    width: int = 5
    lazy: float | None = None
    rank: str = "cost"

    def __post_init__(self) -> None:
        check_risk(self.lazy)
        check_known("algo", self, rank=RANKS)
        check_least("algo", self, width=1)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Request one batch per set size: the distinct sets that add one unit to a kept set."""
        known, kept, rounds = Known(), [space.dense], Rounds(self.lazy, space.k)
        by_cost, dense = per_cost(space, self.rank), 0.0
        if by_cost:
            (dense,) = yield from known.ask([space.dense])
            rounds.know(space.dense, dense)

        def value(mask: Mask) -> float:
            loss = known.losses.get(mask, math.inf)  # a mask that is ruled out has no loss
            return (loss - dense) / space.cost(*mask.dropped) if by_cost else loss

        while kept:
            parents: dict[Mask, Mask] = {}
            for best in kept:
                for i in space.fitting(best.dropped):
                    parents.setdefault(best.drop(i), best)
            partial = [mask for mask in parents if not space.complete(mask)]
            wanted: int | None = self.width if partial else 1
            if 0 < len(partial) < len(parents):  # the best complete set and the best partial sets are needed
                wanted = None
            by_rise = by_cost and len(partial) == len(parents)
            rise = rise_since(space.dense, parents, space) if by_rise else None
            known.losses |= yield from rounds.scored(parents, wanted, rise)
            kept = sorted(partial, key=value)[: self.width]
        return Found(known.best(space), done(space))

    def evaluations(self, space: Space) -> int:
        """The sum over set sizes of min(width, number of sets of that size) * (number of units left)."""
        units, dense = len(space.fitting()), per_cost(space, self.rank)
        return dense + sum(min(self.width, math.comb(units, n)) * (units - n) for n in range(space.k))
