"""Random: the best of `trials` masks drawn at random.

The paper's panel does not include this search. It is a baseline: any search should beat random at equal cost. 200
trials are the budget of the paper's Bayesian search. Random uses no prior, so the result can be worse than the
one-shot set. On a budget, masks are not equally likely: units are drawn one by one, and those that fit are removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.algo import Ask, Found, Proposals
from pruning.algo._surrogate import draw, fresh
from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space


@dataclass(frozen=True)
class Random:
    """Scores distinct masks in one batch; without a budget, all masks are equally likely."""

    trials: int = 200
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InputError(f"algo.trials={self.trials} is too few: choose at least 1.")

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Ask for one batch of min(trials, size of the space) masks."""
        masks = list(self._drawn(space, rng))
        losses = yield Ask(masks, best=1)
        every = len(masks) == space.size
        why = "every mask of the space was scored" if every else f"{self.trials} masks were drawn"
        return Found(masks[int(np.argmin(losses))], why)

    def _drawn(self, space: Space, rng: np.random.Generator) -> dict[Mask, None]:
        if space.size <= self.trials:
            return dict.fromkeys(space.masks())
        masks: dict[Mask, None] = {}
        while len(masks) < self.trials:
            mask = draw(space, rng)
            masks[mask if space.budget is None else fresh(mask, masks, space, rng)] = None
        return masks

    def evaluations(self, space: Space) -> int:
        """The number of masks that are drawn: min(trials, size of the space)."""
        return min(self.trials, space.size)
