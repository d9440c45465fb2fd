"""Local search: start from the better of the one-shot and greedy sets; swap blocks until no swap lowers the loss.

The paper's panel does not include this search. It uses the 1-exchange neighbourhood of subset problems (Hoos and
Stützle, Stochastic Local Search, 2004, chapter 1). All k * (N - k) swaps of a set are one batch, and the best of them
is taken if it lowers the loss. The search ends at a set that no exchange of one block improves. This set is never
worse than the sets of one_shot and greedy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.algo import Found, Known, Proposals
from pruning.algo._prior import neighbours, one_shot
from pruning.core.mask import Mask
from pruning.core.space import Space


@dataclass(frozen=True)
class LocalSearch:
    """Steepest descent over swaps of one block."""

    max_evaluations: int | None = None

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch of single removals, one per round of greedy, and one per round of swaps.

        If the loss of a mask is infinite, a race has ruled the mask out, so the search never needs this mask.
        """
        known = Known()
        singles = [space.drop(i) for i in space.free()]
        losses = yield from known.ask(singles, best=space.k)
        greedy: Mask = singles[int(np.argmin(losses))]
        while len(greedy.dropped) < space.k:
            masks = [greedy.drop(i) for i in space.free(greedy.dropped)]
            greedy = masks[int(np.argmin((yield from known.ask(masks, best=1))))]
        yield from known.ask([one_shot(space, np.array(losses))], best=1)
        best, previous = known.best(space.k), None
        while best != previous:
            previous = best
            yield from known.ask(neighbours(best, space), best=1)
            best = min(best, known.best(space.k), key=known.losses.__getitem__)
        return Found(best, "no swap lowers the loss")

    def evaluations(self, space: Space) -> int:
        """Greedy's masks with fewer than k removals, plus the whole space, because the number of swaps is unknown."""
        free = len(space.free())
        return sum(free - done for done in range(space.k - 1)) + space.size
