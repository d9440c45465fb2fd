"""Annealing: chains that swap one block at a time and accept a worse set less and less often.

Not in the paper's panel. Source: Kirkpatrick, Gelatt and Vecchi, "Optimization by simulated annealing" (Science
220, 1983). A set whose loss is d worse replaces the present one with probability exp(-d / T) (Metropolis), and T
falls by `cooling` at each step. T starts at `heat` times how far apart single removals are (`_prior.scale`), so
that it suits a loss in nats and a margin alike. `chains` chains run side by side, for a batch to share work in:
the first from the one-shot set, the others from draws of the prior. 4 chains of 50 steps cost what the paper
gives its Bayesian search; fewer and longer chains find a little more and share less work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pruning.algo import Found, Known, Proposals
from pruning.algo._prior import draw, fresh, log_weights, one_shot, scale, scored_all, singles, swapped
from pruning.core.errors import InputError
from pruning.core.mask import Space


@dataclass(frozen=True)
class Annealing:
    """Returns the best set that any chain came across, so never worse than the one-shot set."""

    chains: int = 4
    steps: int = 50
    heat: float = 0.2
    cooling: float = 0.92
    temperature: float = 1.0  # of the prior that chains start from
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("chains", 1), ("steps", 0)):
            if getattr(self, name) < least:
                raise InputError(f"algo.{name}={getattr(self, name)} is too few: choose at least {least}.")
        for name in ("heat", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"algo.{name}={getattr(self, name):g} is not above 0.")
        if not 0 < self.cooling <= 1:
            raise InputError(f"algo.cooling={self.cooling:g} does not cool: choose above 0 and at most 1.")

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """One batch of singles, one of starts, one for each step of all chains."""
        known = Known()
        losses = yield from singles(space, known)
        weights, at = log_weights(losses, self.temperature), [one_shot(space, losses)]
        while len(at) < min(self.chains, space.size):
            at.append(fresh(draw(space, rng, weights), at, space, rng))
        present = yield from known.ask(at)
        hottest = self.heat * scale(losses)
        for step in range(self.steps):
            if scored_all(space, known):
                return Found(known.best(space.k), "every mask of the space was scored")
            moves = [swapped(mask, space, rng) for mask in at]
            told = yield from known.ask(moves)
            temperature = hottest * self.cooling**step
            for chain, (move, loss) in enumerate(zip(moves, told, strict=True)):
                if rng.random() < accepts(loss - present[chain], temperature):
                    at[chain], present[chain] = move, loss
        return Found(known.best(space.k), f"each chain took {self.steps} steps")

    def evaluations(self, space: Space) -> int:
        """N singles, and for each chain its start and its steps; at most N and every mask."""
        return len(space.free()) + min(self.chains * (1 + self.steps), space.size)


def accepts(worse: float, temperature: float) -> float:
    """The probability with which a set that is so much worse is accepted."""
    return 1.0 if worse <= 0 else math.exp(-worse / temperature)
