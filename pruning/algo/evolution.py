"""Evolution: one parent, many mutated offspring, selected in stages on more and more samples.

Source: EvoPress (arXiv 2410.14649, algorithm 1, and its script for depth pruning): a (1 + lambda) search. 64
random sets are scored on few samples and the best becomes the parent. Each of k (N - k) / 1.5 generations makes
32 offspring, each by min(u, v) swaps with u, v uniform on 1..3, distinct and unlike the parent; the best 2 on
2,048 tokens meet the parent on 32,768, and the best of these is the next parent.

Deviations: EvoPress draws fresh samples for each selection, here a stage asks for the first so many, for scores
to be kept and continued (most of EvoPress's tokens went to sets it had seen) and for generations to be
comparable; its counts of tokens are `samples` here. It swaps attention and MLP separately unless told not to; a
block is whole here. The parent starts as the better of the random winner and the one-shot set, at the cost of N
losses. The fitness, KL or loss, is the objective.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pruning.algo import Ask, Found, Known, Proposals, Request
from pruning.algo._prior import draw, fresh, one_shot, scored_all, singles, swapped
from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space

# Losses over the first samples, by their number.
Partial = dict[int, dict[Mask, float]]


@dataclass(frozen=True)
class Evolution:
    """`samples` and `survivors` describe the stages before the last, which is on all samples and leaves one."""

    offspring: int = 32
    samples: tuple[int, ...] = (4,)
    survivors: tuple[int, ...] = (2,)
    initial: int = 64
    generations: int | None = None  # k (N - k) / 1.5
    swaps: int = 3
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        for name in ("offspring", "initial", "swaps"):
            if getattr(self, name) < 1:
                raise InputError(f"algo.{name}={getattr(self, name)} is too few: choose at least 1.")
        if self.generations is not None and self.generations < 0:
            raise InputError(f"algo.generations={self.generations} is negative: choose 0 or more, or null.")
        if len(self.samples) != len(self.survivors):
            raise InputError(
                f"algo.samples={self.samples} and algo.survivors={self.survivors} differ in length."
            )
        if any(a >= b for a, b in pairwise((0, *self.samples))):
            raise InputError(f"algo.samples={self.samples} must grow from stage to stage, from 1 on.")
        if any(a < b for a, b in pairwise((self.offspring, *self.survivors, 1))):
            raise InputError(
                f"algo.survivors={self.survivors} must not grow, from {self.offspring} offspring to 1."
            )

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """One batch of singles, then one for each stage of the start and of each generation."""
        known, partial = Known(), Partial()
        losses = yield from singles(space, known)
        initial: list[Mask] = []
        while len(initial) < min(self.initial, space.size):
            initial.append(fresh(draw(space, rng), initial, space, rng))
        stages = list(zip(self.samples, self.survivors, strict=True))
        starts = yield from selected(initial, [(samples, 1) for samples, _ in stages[:1]], partial)
        yield from known.ask([*starts, one_shot(space, losses)], best=1)
        for _ in range(generations := self._generations(space)):
            if scored_all(space, known):
                return Found(known.best(space.k), "every mask of the space was scored")
            offspring = self.mutants(known.best(space.k), space, rng)
            # The parent is the best so far, so what a race rules out could not replace it, now or later.
            yield from known.ask((yield from selected(offspring, stages, partial)), best=1)
        return Found(known.best(space.k), f"{generations} generations were bred")

    def mutants(self, parent: Mask, space: Space, rng: np.random.Generator) -> list[Mask]:
        """Distinct masks, a few swaps from the parent: `offspring` of them, or all there are."""
        kept = len(space.free()) - space.k
        reach = sum(math.comb(space.k, d) * math.comb(kept, d) for d in range(1, self.swaps + 1))
        found: dict[Mask, None] = {}
        while len(found) < min(self.offspring, reach):
            swaps = int(rng.integers(1, self.swaps, size=2, endpoint=True).min())
            found[swapped(parent, space, rng, swaps)] = None
        return list(found)

    def _generations(self, space: Space) -> int:
        if self.generations is not None:
            return self.generations
        return round(space.k * (len(space.free()) - space.k) / 1.5)

    def evaluations(self, space: Space) -> int:
        """N singles, the start, and offspring + survivors in each generation; at most every mask at every stage."""
        start = min(self.initial, space.size) + 2
        bred = self._generations(space) * (self.offspring + sum(self.survivors))
        return len(space.free()) + min(start + bred, space.size * (1 + len(self.samples)))


def selected(
    masks: list[Mask], stages: Sequence[tuple[int, int]], partial: Partial
) -> Generator[Request, Any, list[Mask]]:
    """What is left of masks after stages (samples, survivors). No mask is asked for twice on as many samples."""
    for samples, survivors in stages:
        told = partial.setdefault(samples, {})
        if new := [mask for mask in masks if mask not in told]:
            told.update(zip(new, (yield Ask(new, samples=samples)), strict=True))
        masks = sorted(masks, key=told.__getitem__)[:survivors]
    return masks
