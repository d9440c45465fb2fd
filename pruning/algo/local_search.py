"""Local search. Source: the 1-exchange neighbourhood of subset problems (Hoos and Stützle, Stochastic Local Search,
2004, chapter 1); not in the paper's panel.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruning.algo import Found, Known, Proposals, Request
from pruning.algo._moves import both_paths, evaluations_by_blocks, neighbours, one_shot, singles
from pruning.algo.lazy import Rounds
from pruning.core.mask import Mask, Space


@dataclass(frozen=True)
class LocalSearch:
    """Starts from the better of the one-shot and greedy sets, and swaps units until no swap lowers the loss.

    All k * (N - k) swaps of a set are scored in one batch; the best is made if it lowers the loss. So the result
    is never worse than those of one_shot and greedy. If a share of the cost is removed, exchanges replace swaps.
    """

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Request one batch of single removals, one per round of greedy search, and one per round of swaps."""
        known = Known()
        yield from known.ask((yield from self._starts(space, known)), best=1)
        best, previous = known.best(space), None
        while best != previous:
            previous = best
            yield from known.ask(neighbours(best, space), best=1)
            best = min(best, known.best(space), key=known.losses.__getitem__)
        return Found(best, "no swap lowers the loss")

    def _starts(self, space: Space, known: Known) -> Generator[Request, Any, list[Mask]]:
        """Score the rounds of greedy search. Returns the starting sets that must still be scored."""
        if space.budget is not None:  # greedy and one_shot rank by the rise of the loss per cost
            losses = yield from singles(space, known)
            rounds = Rounds(None, space.k)
            return [*(yield from both_paths(space, known, rounds)), one_shot(space, losses)]
        alone = [space.drop(i) for i in space.free()]
        first = yield from known.ask(alone, best=space.k)
        greedy: Mask = alone[int(np.argmin(first))]
        while not space.complete(greedy):
            masks = [greedy.drop(i) for i in space.free(greedy.dropped)]
            greedy = masks[int(np.argmin((yield from known.ask(masks, best=1))))]
        return [one_shot(space, np.array(first))]

    def evaluations(self, space: Space) -> int:
        """The masks of greedy's rounds, plus the whole space, because the number of swaps is unknown."""
        units, budget = len(space.fitting()), space.budget is not None
        blocks = evaluations_by_blocks(space) if budget else 0
        return blocks + budget + sum(units - done for done in range(space.k - 1 + budget)) + space.size
