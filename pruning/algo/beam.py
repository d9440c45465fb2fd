"""Beam: like greedy, but keeps the `width` best sets of each size instead of one.

Source: the paper's search (3), B = 5. Ties go to the set that was reached first. With width 1, beam is greedy; if all
sets are kept, it is exhaustive. On a budget, sets that meet it are set aside, and the one of least loss is the
answer. The other sets of a round are compared by the rise of the loss since the dense model, divided by what they
cost (`_rank.py`). Greedy divides the rise since the set of the round before, so beam with width 1 can differ from it
there.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruning.algo import Found, Known, Proposals, Request
from pruning.algo._rank import RANKS, done, per_cost, rise_since
from pruning.algo.lazy import Lazy, check_risk
from pruning.core.errors import check_known, check_least
from pruning.core.mask import Mask, Space


@dataclass(frozen=True)
class Beam:
    """Extends each of the best sets by every remaining unit and keeps the best of the results.

    If `lazy` is given, unpromising candidates are skipped; it is the risk that this changes the search (`lazy.py`).
    `rank` is `cost` or `loss`; see `_rank.py`.
    """

    width: int = 5
    lazy: float | None = None
    rank: str = "cost"

    def __post_init__(self) -> None:
        check_risk(self.lazy)
        check_known("algo", self, rank=RANKS)
        check_least("algo", self, width=1)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch per set size: the distinct sets that are one unit larger than the kept sets."""
        known, kept, rounds = Known(), [space.dense], Lazy.of(self.lazy, space)
        by_cost, dense = per_cost(space, self.rank), 0.0
        if by_cost:
            (dense,) = yield from known.ask([space.dense])
            if rounds is not None:
                rounds.know(space.dense, dense)

        def value(mask: Mask) -> float:
            loss = known.losses.get(mask, math.inf)  # a mask that is ruled out has no loss
            return (loss - dense) / space.cost(*mask.dropped) if by_cost else loss

        while kept:
            parents: dict[Mask, Mask] = {}
            for best in kept:
                for i in space.fitting(best.dropped):
                    parents.setdefault(best.drop(i), best)
            yield from self._scored(parents, space, known, rounds)
            partial = [mask for mask in parents if not space.complete(mask)]
            kept = sorted(partial, key=value)[: self.width]
        return Found(known.best(space), done(space))

    def _scored(
        self, parents: Mapping[Mask, Mask], space: Space, known: Known, rounds: Lazy | None
    ) -> Generator[Request, Any, None]:
        """Ask for the losses of a round that the choice of the next sets, or of the answer, needs."""
        complete = {space.complete(mask) for mask in parents}
        mixed = len(complete) == 2  # the best complete set and the best partial sets are needed
        wanted = len(parents) if mixed else 1 if complete == {True} else self.width
        partial = complete == {False} and per_cost(space, self.rank)
        rise = rise_since(space.dense, parents, space) if partial else None
        if rounds is not None:
            known.losses |= dict.fromkeys(parents, math.inf)
            known.losses |= yield from rounds.scored(parents, wanted, rise)
        else:
            yield from known.ask(parents, None if mixed else wanted, rise)

    def evaluations(self, space: Space) -> int:
        """The sum over set sizes of min(width, number of sets of that size) * (number of units left).

        On a budget, the dense model is added.
        """
        units, dense = len(space.fitting()), per_cost(space, self.rank)
        return dense + sum(min(self.width, math.comb(units, n)) * (units - n) for n in range(space.k))
