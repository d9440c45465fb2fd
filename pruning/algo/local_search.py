"""Local search: start from the better of the one-shot and greedy sets; swap blocks until no swap lowers the loss.

The paper's panel does not include this search. It uses the 1-exchange neighbourhood of subset problems (Hoos and
Stützle, Stochastic Local Search, 2004, chapter 1). All k * (N - k) swaps of a set are one batch, and the best of them
is taken if it lowers the loss. The search ends at a set that no exchange of one block improves. This set is never
worse than the sets of one_shot and greedy. On a budget, one unit can be exchanged for several (`_exchange.py`).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruning.algo import Found, Known, Proposals, Request
from pruning.algo._rank import both_paths, evaluations_by_blocks
from pruning.algo._surrogate import neighbours, one_shot, singles
from pruning.core.mask import Mask, Space


@dataclass(frozen=True)
class LocalSearch:
    """Steepest descent over swaps of one unit."""

    max_evaluations: int | None = None

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch of single removals, one per round of greedy, and one per round of swaps.

        If the loss of a mask is infinite, a race or a bound has ruled the mask out, so the search never needs it.
        """
        known = Known()
        starts = yield from (
            self._starts(space, known) if space.budget is None else self._on_budget(space, known)
        )
        yield from known.ask(starts, best=1)
        best, previous = known.best(space), None
        while best != previous:
            previous = best
            yield from known.ask(neighbours(best, space), best=1)
            best = min(best, known.best(space), key=known.losses.__getitem__)
        return Found(best, "no swap lowers the loss")

    def _starts(self, space: Space, known: Known) -> Generator[Request, Any, list[Mask]]:
        """Score the rounds of greedy; returns the one-shot set."""
        alone = [space.drop(i) for i in space.free()]
        losses = yield from known.ask(alone, best=space.k)
        greedy: Mask = alone[int(np.argmin(losses))]
        while not space.complete(greedy):
            masks = [greedy.drop(i) for i in space.free(greedy.dropped)]
            greedy = masks[int(np.argmin((yield from known.ask(masks, best=1))))]
        return [one_shot(space, np.array(losses))]

    def _on_budget(self, space: Space, known: Known) -> Generator[Request, Any, list[Mask]]:
        """The same on a budget, where greedy and one_shot rank by the rise of the loss per cost."""
        losses = yield from singles(space, known)
        return [*(yield from both_paths(space, known)), one_shot(space, losses)]

    def evaluations(self, space: Space) -> int:
        """Greedy's masks with fewer than k removals, plus the whole space, because the number of swaps is unknown.

        On a budget, masks of k removals count as well, and the dense model.
        """
        units, budget = len(space.fitting()), space.budget is not None
        blocks = evaluations_by_blocks(space) if budget else 0
        return blocks + budget + sum(units - done for done in range(space.k - 1 + budget)) + space.size
