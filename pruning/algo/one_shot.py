"""One-shot search. Source: the paper's search (1), "top-k selection"; the perplexity criterion of Shortened LLaMA
(arXiv 2402.02834, section 2.2).
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
    """Scores the removal of every single unit, then removes the k units that cost least, ignoring interactions.

    On a budget, units are removed in this order if they fit.
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
        """The number of units that can be removed: N. On a budget, the dense model is added."""
        return len(space.fitting()) + per_cost(space, self.rank)
