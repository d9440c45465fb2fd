"""Local search: start from the better of the one-shot and greedy sets; swap blocks until no swap lowers the loss.

Source: the 1-exchange neighbourhood of subset problems (Hoos and Stützle, Stochastic Local Search, 2004, chapter 1);
not in the paper's panel. All k * (N - k) swaps of a set are one batch, and the best of them is taken if it lowers the
loss. The result is never worse than those of one_shot and greedy. On a budget, one unit can be exchanged for several.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruning.algo import Found, Known, Proposals, Request
from pruning.algo._moves import neighbours, one_shot, singles
from pruning.algo._rank import both_paths, evaluations_by_blocks
from pruning.core.mask import Mask, Space


@dataclass(frozen=True)
class LocalSearch:
    """Steepest descent over swaps of one unit."""

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch of single removals, one per round of greedy, and one per round of swaps.

        If the loss of a mask is infinite, a race or a bound has ruled the mask out, so the search never needs it.
        """
        known = Known()
        yield from known.ask((yield from _starts(space, known)), best=1)
        best, previous = known.best(space), None
        while best != previous:
            previous = best
            yield from known.ask(neighbours(best, space), best=1)
            best = min(best, known.best(space), key=known.losses.__getitem__)
        return Found(best, "no swap lowers the loss")

    def evaluations(self, space: Space) -> int:
        """Greedy's masks with fewer than k removals, plus the whole space, because the number of swaps is unknown.

        On a budget, masks of k removals count as well, and the dense model.
        """
        units, budget = len(space.fitting()), space.budget is not None
        blocks = evaluations_by_blocks(space) if budget else 0
        return blocks + budget + sum(units - done for done in range(space.k - 1 + budget)) + space.size


def _starts(space: Space, known: Known) -> Generator[Request, Any, list[Mask]]:
    """Score the rounds of greedy; returns the sets to start from that are not known yet, or not in full.

    On a budget, greedy and one_shot rank by the rise of the loss per cost.
    """
    if space.budget is not None:
        losses = yield from singles(space, known)
        return [*(yield from both_paths(space, known)), one_shot(space, losses)]
    alone = [space.drop(i) for i in space.free()]
    first = yield from known.ask(alone, best=space.k)
    greedy: Mask = alone[int(np.argmin(first))]
    while not space.complete(greedy):
        masks = [greedy.drop(i) for i in space.free(greedy.dropped)]
        greedy = masks[int(np.argmin((yield from known.ask(masks, best=1))))]
    return [one_shot(space, np.array(first))]
