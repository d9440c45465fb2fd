"""Searches. Each file holds one: a frozen dataclass of hyper-parameters with a `propose` generator.

A search asks for the losses of masks by yielding them and is told them in the same order. It knows masks
and numpy only: no model, no objective, no clock; all randomness comes from `rng`. So it is a pure function
of (seed, losses), and replaying it against a journal of losses brings it back to where it stood.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np

from pruning.core.mask import Mask, Space


@dataclass(frozen=True)
class Ask:
    """A request for the losses of masks, told as a list of floats in their order.

    `best` says how many of the least losses matter: with racing on, masks that are ruled out from being among
    them are told as infinity. `samples` asks for the losses over the first so many samples only (at least 1; more
    than there are means all). A search never asks for the same mask and number of samples twice.
    """

    masks: Sequence[Mask]
    best: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Gates:
    """A request for d(term of sample s) / d(gate of block i), told as a float64 array (samples, N).

    A gate a scales what a block adds to the hidden state, h + a * (F(h) - h), so a = 1 keeps the block and a = 0
    removes it. Objectives without a gradient answer with the secant: the sample's term in the dense model minus its
    term without block i. That costs, and counts as, N + 1 losses.
    """


@dataclass(frozen=True)
class Found:
    """What a search ends with: a mask of its space, and in a few words why it stopped there."""

    mask: Mask
    why: str


Request: TypeAlias = Ask | Gates
# What is sent back is a list of floats for Ask and an array for Gates.
Proposals: TypeAlias = Generator[Request, Any, Found]


class Algo(Protocol):
    """What every search offers."""

    @property
    def max_evaluations(self) -> int | None:
        """After so many distinct masks the search is stopped and the best mask so far is taken; None: never."""
        ...

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Yield requests, receive answers, return one mask of `space`."""
        ...

    def evaluations(self, space: Space) -> int:
        """How many losses it will ask for at the most; for progress bars and cost tables.

        Raises OutOfReachError, with the count, where the search is out of reach in this space.
        """
        ...


@dataclass
class Known:
    """Losses that a search was told, so that it asks for none twice."""

    losses: dict[Mask, float] = field(default_factory=dict)

    def ask(self, masks: Iterable[Mask], best: int | None = None) -> Generator[Request, Any, list[float]]:
        """`losses = yield from known.ask(masks)`: the losses of all of them; only the new ones are asked for."""
        masks = list(masks)
        new = [mask for mask in dict.fromkeys(masks) if mask not in self.losses]
        if new:
            self.losses.update(zip(new, (yield Ask(new, best)), strict=True))
        return [self.losses[mask] for mask in masks]

    def best(self, k: int) -> Mask:
        """The mask of least loss among those that remove k blocks; of equals, the one asked for first."""
        return min((mask for mask in self.losses if len(mask.dropped) == k), key=self.losses.__getitem__)
