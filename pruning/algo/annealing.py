"""Annealing: chains that swap one unit at a time and accept a worse set less and less often."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pruning.algo import Found, Known, Proposals, _moves, check_above
from pruning.core.errors import InputError, check_least
from pruning.core.mask import Space


@dataclass(frozen=True)
class Annealing:
    """Returns the best set that any chain scored. It is never worse than the one-shot set.

    A set whose loss is d above that of the current set replaces it with probability exp(-d / T) (Metropolis).
    T starts at `heat` times the spread of single-removal losses and is multiplied by `cooling` at each step.
    Each batch has one set per chain. The first chain starts from the one-shot set, the others from random sets
    of the prior with `temperature`. 4 chains of 50 steps try 200 sets, as the paper's Bayesian search does.

    Source: Kirkpatrick, Gelatt and Vecchi, "Optimization by simulated annealing" (Science 220, 1983); not in the
    paper's panel.
    """

    chains: int = 4
    steps: int = 50
    heat: float = 0.2
    cooling: float = 0.92
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_least("algo", self, chains=1, steps=0)
        check_above(self, heat=0, temperature=0)
        if not 0 < self.cooling <= 1:
            raise InputError(f"algo.cooling={self.cooling:g} is out of range: choose above 0 and at most 1.")

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Request single removals, the starting sets, and in each step, each chain's set after one swap."""
        known = Known()
        losses = yield from _moves.singles(space, known)
        at, _ = _moves.first_masks(space, losses, self.temperature, self.chains, rng)
        current = yield from known.ask(at)
        hottest = self.heat * _moves.scale(losses)
        for step in range(self.steps):
            if _moves.scored_all(space, known):
                return Found(known.best(space), "every mask of the space was scored")
            moves = [_moves.swapped(mask, space, rng) for mask in at]
            losses_of_moves = yield from known.ask(moves)
            temperature = hottest * self.cooling**step
            for chain, (move, loss) in enumerate(zip(moves, losses_of_moves, strict=True)):
                if rng.random() < accepts(loss - current[chain], temperature):
                    at[chain], current[chain] = move, loss
        return Found(known.best(space), f"each chain took {self.steps} steps")

    def evaluations(self, space: Space) -> int:
        """N single removals, plus one start and `steps` masks per chain; at most N plus the size of the space."""
        return _moves.n_singles(space) + min(self.chains * (1 + self.steps), space.size)


def accepts(worse: float, temperature: float) -> float:
    """The probability of accepting a set whose loss is higher by `worse`; `temperature` can be rounded to 0."""
    if worse <= 0:
        return 1.0
    return math.exp(-worse / temperature) if temperature > 0 else 0.0
