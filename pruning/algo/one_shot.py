"""One-shot search. Sources: search 1 of arXiv 2604.24938, "top-k selection"; the perplexity criterion of Shortened
LLaMA (arXiv 2402.02834, section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.algo import Ask, Found, Known, Proposals
from pruning.algo._moves import RANKS, per_cost, ranked, rates, singles
from pruning.core.errors import check_known
from pruning.core.mask import Space, unit_noun


@dataclass(frozen=True)
class OneShot:
    """Scores the removal of each unit, then removes the k units of lowest loss, ignoring interactions.

    On a budget, units that fit are removed in the order that `rank` gives.
    """

    rank: str = "cost"  # or "loss"

    def __post_init__(self) -> None:
        check_known("algo", self, rank=RANKS)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch of single removals."""
        if per_cost(space, self.rank):
            values = rates(space, (yield from singles(space, Known())))
        else:
            # On a budget, any unit can be needed, because those that rank before it may not fit.
            best = space.k if space.budget is None else None
            values = np.array((yield Ask([space.drop(i) for i in space.fitting()], best=best)))
        return Found(ranked(space, values), f"every {unit_noun(space.unit)} was scored")

    def evaluations(self, space: Space) -> int:
        """The number N of removable units; with `rank=cost` on a budget, N + 1 with the dense model."""
        return len(space.fitting()) + per_cost(space, self.rank)
