"""Random masks: a baseline that any search should beat at equal cost.

The default, 200 trials, is that of the paper's Bayesian search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.algo import Ask, Found, Proposals
from pruning.algo._moves import draw, fresh
from pruning.core.errors import check_least
from pruning.core.mask import Mask, Space


@dataclass(frozen=True)
class Random:
    """The best of `trials` distinct masks drawn at random.

    No prior is used, so the result can be worse than the one-shot set. If k units are removed, all masks are
    equally likely. If a share of the cost is removed, units are drawn one by one, and those that fit are removed.
    """

    trials: int = 200

    def __post_init__(self) -> None:
        check_least("algo", self, trials=1)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Request one batch of min(trials, size of the space) masks."""
        every = space.size <= self.trials
        drawn: dict[Mask, None] = dict.fromkeys(space.masks()) if every else {}
        while len(drawn) < self.evaluations(space):
            mask = draw(space, rng)
            drawn[mask if space.budget is None else fresh(mask, drawn, space, rng)] = None
        masks = list(drawn)
        losses = yield Ask(masks, best=1)
        why = "every mask of the space was scored" if every else f"{self.trials} masks were drawn"
        return Found(masks[int(np.argmin(losses))], why)

    def evaluations(self, space: Space) -> int:
        """The number of masks that are drawn: min(trials, size of the space)."""
        return min(self.trials, space.size)
