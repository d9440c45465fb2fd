"""Greedy: in each of k rounds, score the removal of every remaining block and make the removal of lowest loss.

Source: SLEB (arXiv 2402.09025, algorithm 1); the paper's search (2). SLEB protects the first and the last block; to
do the same here, set `protect.first=1 protect.last=1`. Ties go to the lower index. On a budget, a round scores the
units that still fit and removes the one with the least rise of the loss per cost (`_rank.py`), measured from the mask
of the round before; the last round ends within the budget.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruning.algo import Ask, Found, Known, Proposals, Request, Rise
from pruning.algo._rank import check_rank, done, per_cost, rise_since
from pruning.algo.lazy import Lazy, check_risk
from pruning.core.mask import Mask
from pruning.core.space import Space


@dataclass(frozen=True)
class Greedy:
    """Each removal takes the earlier removals into account. No removal is undone.

    If `lazy` is given, unpromising candidates are skipped; it is the risk that this changes the search (`lazy.py`).
    `rank` is `cost` or `loss`; see `_rank.py`.
    """

    max_evaluations: int | None = None
    lazy: float | None = None
    rank: str = "cost"

    def __post_init__(self) -> None:
        check_risk(self.lazy)
        check_rank(self.rank)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch per round; each mask removes the previous winner's units and one more."""
        rounds = None if self.lazy is None else Lazy(self.lazy, space.k)
        if per_cost(space, self.rank):
            return Found((yield from by_cost(space, Known(), rounds)), done(space))
        best: Mask = space.dense
        while not space.complete(best):
            masks = [best.drop(i) for i in space.fitting(best.dropped)]
            if rounds is not None:
                losses = yield from rounds.scored(dict.fromkeys(masks, best), 1)
                best = min(masks, key=lambda mask: losses.get(mask, math.inf))
            else:
                best = masks[int(np.argmin((yield Ask(masks, best=1))))]
        return Found(best, done(space))

    def evaluations(self, space: Space) -> int:
        """N + (N - 1) + ..., one term for each of the k rounds. On a budget, the dense model is added."""
        units = len(space.fitting())
        return sum(units - done for done in range(space.k)) + per_cost(space, self.rank)


def by_cost(space: Space, known: Known, rounds: Lazy | None = None) -> Generator[Request, Any, Mask]:
    """The mask of greedy on a budget: each round removes the unit with the least rise of the loss per cost."""
    best = space.dense
    (before,) = yield from known.ask([best])
    if rounds is not None:
        rounds.know(best, before)
    while not space.complete(best):
        masks = [best.drop(i) for i in space.fitting(best.dropped)]
        rise = rise_since(best, masks, space)
        if rounds is None:
            yield from known.ask(masks, 1, rise)
        else:
            known.losses |= dict.fromkeys(masks, math.inf)
            known.losses |= yield from rounds.scored(dict.fromkeys(masks, best), 1, rise)
        best, before = _cheapest(masks, rise, known, before)
    return best


def _cheapest(masks: Sequence[Mask], rise: Rise, known: Known, before: float) -> tuple[Mask, float]:
    """The mask of least rise per cost since a mask of loss `before`, and its loss."""
    best = min(masks, key=lambda mask: rise.rate(mask, known.losses[mask], before))
    return best, known.losses[best]
