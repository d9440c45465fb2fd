"""One-shot: score every block alone, remove the k whose removal costs least.

Source: the paper's search (1), "top-k selection"; the perplexity criterion of Shortened LLaMA
(arXiv 2402.02834, section 2.2). Ties go to the lower index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.algo import Ask, Found, Proposals
from pruning.core.mask import Space


@dataclass(frozen=True)
class OneShot:
    """Rank blocks by the loss without them; no interaction between blocks is seen."""

    max_evaluations: int | None = None

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """One batch of single removals."""
        blocks = space.free()
        losses = yield Ask([space.drop(i) for i in blocks], best=space.k)
        ranked = np.argsort(losses, kind="stable")
        return Found(space.drop(*(blocks[r] for r in ranked[: space.k])), "every block was scored")

    def evaluations(self, space: Space) -> int:
        """One for each unprotected block: N."""
        return len(space.free())
