"""One-shot: score the removal of every single block, then remove the k blocks that cost least.

Source: the paper's search (1), "top-k selection"; the perplexity criterion of Shortened LLaMA
(arXiv 2402.02834, section 2.2). Ties go to the lower index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.algo import Ask, Found, Proposals
from pruning.core.space import Space


@dataclass(frozen=True)
class OneShot:
    """Ranks blocks by the losses of their single removals. This ignores interactions between blocks."""

    max_evaluations: int | None = None

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch of single removals."""
        blocks = space.free()
        losses = yield Ask([space.drop(i) for i in blocks], best=space.k)
        ranked = np.argsort(losses, kind="stable")
        return Found(space.drop(*(blocks[r] for r in ranked[: space.k])), "every block was scored")

    def evaluations(self, space: Space) -> int:
        """The number of unprotected blocks: N."""
        return len(space.free())
