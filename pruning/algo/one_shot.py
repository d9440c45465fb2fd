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

    If a share of the cost is removed, units are removed in the order of `rank`, skipping any that do not fit.
    """

    rank: str = "cost"  # or "loss"

    def __post_init__(self) -> None:
        check_known("algo", self, rank=RANKS)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Request one batch of single removals."""
        if per_cost(space, self.rank):
            values = rates(space, (yield from singles(space, Known())))
        else:
            # For a share of the cost, any unit can be needed, because units ranked before it may not fit.
            best = space.k if space.budget is None else None
            values = np.array((yield Ask([space.drop(i) for i in space.fitting()], best=best)))
        return Found(ranked(space, values), f"every {unit_noun(space.unit)} was scored")

    def evaluations(self, space: Space) -> int:
        """N, the number of removable units; N + 1, with the dense model, if rises per cost are compared."""
        return len(space.fitting()) + per_cost(space, self.rank)
