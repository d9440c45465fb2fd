"""Evolution. Source: EvoPress (arXiv 2410.14649, algorithm 1, and its script for depth pruning).

Deviations from EvoPress: a stage uses the same first samples in every generation, so that scores can be
compared, reused and extended; EvoPress draws fresh samples. The first parent is the better of the best
random set and the one-shot set. EvoPress drops as many attention layers as MLPs; here, with `within=kind`,
the first parent decides how many of each are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

import numpy as np

from pruning.algo import Ask, Found, Known, Proposals, Request, _moves
from pruning.core.errors import InputError, check_known, check_least
from pruning.core.mask import Mask, Space

TRIES = 20  # attempts per offspring if the number of possible mutants is unknown


@dataclass(frozen=True)
class Evolution:
    """One parent, many mutated offspring, selected in stages on more and more samples.

    The first parent is the best of the one-shot set and `initial` random sets. With N removable units, each of
    k (N - k) / 1.5 generations makes `offspring` distinct masks: the parent after min(u, v) swaps, with u and v drawn
    uniformly from 1 to `swaps`. `samples` and `survivors` have one value for each stage except the last, which uses
    all samples. In the last stage, the best among survivors and parent becomes the next parent. If a share of the
    cost is removed, k is the most units that it allows.
    """

    offspring: int = 32
    samples: tuple[int, ...] = (4,)
    survivors: tuple[int, ...] = (2,)
    initial: int = 64
    generations: int | None = None  # None means k (N - k) / 1.5
    swaps: int = 3
    within: str = "any"  # or "kind": swap attention only for attention, and MLP only for MLP

    def __post_init__(self) -> None:
        check_known("algo", self, within=("any", "kind"))
        check_least("algo", self, offspring=1, initial=1, swaps=1, generations=0)
        if len(self.samples) != len(self.survivors):
            raise InputError(
                f"algo.samples={self.samples} and algo.survivors={self.survivors} differ in length: "
                "give one value of each per stage."
            )
        if any(a >= b for a, b in pairwise((0, *self.samples))):
            raise InputError(
                f"algo.samples={self.samples} is invalid: choose numbers from 1 on that rise from stage to stage."
            )
        if any(a < b for a, b in pairwise((self.offspring, *self.survivors, 1))):
            raise InputError(
                f"algo.survivors={self.survivors} is invalid: choose numbers from {self.offspring} (algo.offspring) "
                "down to 1 that do not rise from stage to stage."
            )

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Request single removals, then the initial sets and, in each generation, one batch per stage."""
        known, partial = Known(), dict[int, dict[Mask, float]]()
        losses = yield from _moves.singles(space, known)
        if _moves.scored_all(space, known):
            return Found(known.best(space), "every mask of the space was scored")
        initial = _moves.extended([], self.initial, space, rng)
        stages = list(zip(self.samples, self.survivors, strict=True))
        starts = yield from _selected(initial, [(samples, 1) for samples, _ in stages[:1]], partial)
        yield from known.ask([*starts, _moves.one_shot(space, losses)], best=1)
        for _ in range(generations := self._generations(space)):
            if _moves.scored_all(space, known):
                return Found(known.best(space), "every mask of the space was scored")
            if not (offspring := self.mutants(known.best(space), space, rng)):
                return Found(known.best(space), "no swap stays in the space")
            # The parent is the best mask so far, so a mask that a race rules out could never become the parent.
            yield from known.ask((yield from _selected(offspring, stages, partial)), best=1)
        return Found(known.best(space), f"{generations} generations were bred")

    def mutants(self, parent: Mask, space: Space, rng: np.random.Generator) -> list[Mask]:
        """`offspring` distinct masks, 1 to `swaps` swaps away from the parent; all such masks if there are fewer.

        For a share of the cost, or with `within=kind`, their number is unknown; if they are few, some can be missed.
        """
        kept, counted = len(space.fitting()) - space.k, space.budget is None and self.within == "any"
        reach = sum(math.comb(space.k, d) * math.comb(kept, d) for d in range(1, self.swaps + 1))
        most = min(self.offspring, reach) if counted else self.offspring
        swap = _moves.swapped if self.within == "any" else _moves.within_kind
        masks: dict[Mask, None] = {}
        for _ in count() if counted else range(TRIES * self.offspring):
            if len(masks) == most:
                break
            swaps = int(rng.integers(1, self.swaps, size=2, endpoint=True).min())
            if (mutant := swap(parent, space, rng, swaps)) != parent:
                masks[mutant] = None
        return list(masks)

    def _generations(self, space: Space) -> int:
        if self.generations is not None:
            return self.generations
        return round(space.k * (len(space.fitting()) - space.k) / 1.5)

    def evaluations(self, space: Space) -> int:
        """N single removals, the initial sets, and offspring + survivors per generation."""
        start = min(self.initial, space.size) + 2
        bred = self._generations(space) * (self.offspring + sum(self.survivors))
        return _moves.n_singles(space) + min(start + bred, space.size * (1 + len(self.samples)))


def _selected(
    masks: list[Mask], stages: Sequence[tuple[int, int]], partial: dict[int, dict[Mask, float]]
) -> Generator[Request, Any, list[Mask]]:
    """The masks that survive all `stages`: pairs (samples, survivors). No mask is scored twice on equal samples.

    `partial` maps a number n of samples to the losses of masks over the first n samples.
    """
    for samples, survivors in stages:
        losses = partial.setdefault(samples, {})
        if new := [mask for mask in masks if mask not in losses]:
            losses.update(zip(new, (yield Ask(new, samples=samples)), strict=True))
        masks = sorted(masks, key=losses.__getitem__)[:survivors]
    return masks
