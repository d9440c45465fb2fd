"""Genetic search. Source: search 4 of arXiv 2604.24938. All that the paper states is "prior-guided GA: population
16, elitism 0.2, mutation 0.15, 10 generations".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.algo import Found, Known, Proposals, _moves, check_above
from pruning.core.errors import InputError, check_least
from pruning.core.mask import Mask, Space


@dataclass(frozen=True)
class Genetic:
    """Crosses and mutates a population; returns the best scored set, which is never worse than the one-shot set.

    The first population is the one-shot set and random sets from the prior (`_moves.py`). A parent is the best
    of `tournament` random members. A child removes the blocks that both parents remove, and draws its other
    blocks from those that only one parent removes (respectful recombination, Radcliffe 1991). `mutation` is
    the probability that one block of a child is swapped. The best int(elitism * population) sets survive
    unchanged. If the generation already contains a child, blocks of the child are swapped until it is new.
    """

    population: int = 16
    generations: int = 10
    elitism: float = 0.2
    mutation: float = 0.15
    tournament: int = 3
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_least("algo", self, population=2, generations=0, tournament=1, elitism=0, mutation=0)
        check_above(self, temperature=0)
        if self.elitism >= 1:
            raise InputError(f"algo.elitism={self.elitism:g} is too large: choose a number below 1.")
        if self.mutation > 1:
            raise InputError(f"algo.mutation={self.mutation:g} is not a probability: choose from 0 to 1.")

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Request one batch of single removals, then one batch per generation."""
        known = Known()
        losses = yield from _moves.singles(space, known)
        population, _ = _moves.first_masks(space, losses, self.temperature, self.population, rng)
        fitness = yield from known.ask(population)
        for _ in range(self.generations):
            if _moves.scored_all(space, known):
                return Found(known.best(space), "every mask of the space was scored")
            population = self.breed(population, fitness, space, rng)
            fitness = yield from known.ask(population)
        return Found(known.best(space), f"{self.generations} generations were bred")

    def breed(
        self, population: list[Mask], fitness: list[float], space: Space, rng: np.random.Generator
    ) -> list[Mask]:
        """The next generation: the best sets unchanged, and distinct children of tournament winners."""
        ranked = [population[r] for r in np.argsort(fitness, kind="stable")]
        following = ranked[: int(self.elitism * len(ranked))]
        while len(following) < len(ranked):
            a, b = (ranked[rng.integers(len(ranked), size=self.tournament).min()] for _ in range(2))
            child = crossed(a, b, space, rng)
            child = _moves.swapped(child, space, rng, swaps=int(rng.binomial(1, self.mutation)))
            following.append(_moves.fresh(child, following, space, rng))
        return following

    def evaluations(self, space: Space) -> int:
        """N single removals, the first population, and the children; at most N plus the size of the space."""
        size = min(self.population, space.size)
        bred = size + self.generations * (size - int(self.elitism * size))
        return _moves.n_singles(space) + min(bred, space.size)


def crossed(a: Mask, b: Mask, space: Space, rng: np.random.Generator) -> Mask:
    """A child that removes the units that both a and b remove, and random units that only one of them removes.

    If these units do not reach the share of the cost to remove, other units are removed too, in random order.
    """
    both = set(a.dropped) & set(b.dropped)
    either = sorted(set(a.dropped) ^ set(b.dropped))
    if space.budget is None:
        return space.drop(*both, *(int(i) for i in rng.choice(either, space.k - len(both), replace=False)))
    rest = [i for i in space.fitting() if i not in both and i not in either]
    return space.filled(both, [*rng.permutation(either).tolist(), *rng.permutation(rest).tolist()])
