"""Greedy: in each of k rounds, score the removal of every remaining block and make the removal of lowest loss.

Source: SLEB (arXiv 2402.09025, algorithm 1); the paper's search (2). SLEB protects the first and the last block; to
do the same here, set `protect.first=1 protect.last=1`. Ties go to the lower index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.algo import Ask, Found, Proposals
from pruning.core.mask import Mask, Space


@dataclass(frozen=True)
class Greedy:
    """Each removal takes the earlier removals into account. No removal is undone."""

    max_evaluations: int | None = None

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch per round; each mask removes the previous winner's blocks and one more."""
        best: Mask = space.dense
        while len(best.dropped) < space.k:
            masks = [best.drop(i) for i in space.free(best.dropped)]
            losses = yield Ask(masks, best=1)
            best = masks[int(np.argmin(losses))]
        return Found(best, "k blocks were removed")

    def evaluations(self, space: Space) -> int:
        """N + (N - 1) + ..., one term for each of the k rounds."""
        free = len(space.free())
        return sum(free - done for done in range(space.k))
