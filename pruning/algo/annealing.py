"""Annealing: chains that swap one unit at a time and accept a worse set less and less often.

The paper's panel does not include this search. Source: Kirkpatrick, Gelatt and Vecchi, "Optimization by simulated
annealing" (Science 220, 1983). A set whose loss is higher by d replaces the current set with probability exp(-d / T)
(Metropolis). T is multiplied by `cooling` at each step. T starts at `heat` times the spread of the losses of single
removals (`_prior.scale`), so that the search works with any unit of the loss. `chains` chains run in parallel, so
that the masks of a batch share work. The first chain starts from the one-shot set, the others from draws of the
prior. 4 chains of 50 steps have the same budget as the paper's Bayesian search. Fewer and longer chains give slightly
better sets, but the smaller batches share less work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pruning.algo import Found, Known, Proposals
from pruning.algo._surrogate import (
    draw,
    fresh,
    log_weights,
    n_singles,
    one_shot,
    rates,
    scale,
    scored_all,
    singles,
    swapped,
)
from pruning.core.errors import InputError
from pruning.core.mask import Space


@dataclass(frozen=True)
class Annealing:
    """Returns the best set that any chain scored. It is never worse than the one-shot set."""

    chains: int = 4
    steps: int = 50
    heat: float = 0.2
    cooling: float = 0.92
    temperature: float = 1.0  # temperature of the prior that starting sets are drawn from
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("chains", 1), ("steps", 0)):
            if getattr(self, name) < least:
                raise InputError(f"algo.{name}={getattr(self, name)} is too few: choose at least {least}.")
        for name in ("heat", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(
                    f"algo.{name}={getattr(self, name):g} is too small: choose a number above 0."
                )
        if not 0 < self.cooling <= 1:
            raise InputError(f"algo.cooling={self.cooling:g} is out of range: choose above 0 and at most 1.")

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Ask for one batch of single removals, one of starting sets, and one per step.

        The batch of a step has one mask per chain: the chain's current set after one swap.
        """
        known = Known()
        losses = yield from singles(space, known)
        weights, at = log_weights(rates(space, losses), self.temperature), [one_shot(space, losses)]
        while len(at) < min(self.chains, space.size):
            at.append(fresh(draw(space, rng, weights), at, space, rng))
        current = yield from known.ask(at)
        hottest = self.heat * scale(losses)
        for step in range(self.steps):
            if scored_all(space, known):
                return Found(known.best(space), "every mask of the space was scored")
            moves = [swapped(mask, space, rng) for mask in at]
            losses_of_moves = yield from known.ask(moves)
            temperature = hottest * self.cooling**step
            for chain, (move, loss) in enumerate(zip(moves, losses_of_moves, strict=True)):
                if rng.random() < accepts(loss - current[chain], temperature):
                    at[chain], current[chain] = move, loss
        return Found(known.best(space), f"each chain took {self.steps} steps")

    def evaluations(self, space: Space) -> int:
        """N single removals, plus one start and `steps` masks per chain; at most N plus the size of the space."""
        return n_singles(space) + min(self.chains * (1 + self.steps), space.size)


def accepts(worse: float, temperature: float) -> float:
    """The probability of accepting a set whose loss is greater by `worse`; after many steps the temperature is 0."""
    if worse <= 0:
        return 1.0
    return math.exp(-worse / temperature) if temperature > 0 else 0.0
