"""Searches: each is a frozen dataclass of hyper-parameters with a `propose` generator.

A search yields masks and receives their losses in the same order. It uses no model, objective or clock, and
all randomness comes from `rng`. So it is a pure function of (seed, losses): replaying the losses of a journal
restores the state of a search.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np

from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space


class Algo(Protocol):
    """The interface of every search."""

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Yield requests, receive their answers, and return a `Found` with one mask of `space`."""
        ...

    def evaluations(self, space: Space) -> int:
        """An upper bound on the number of losses that the search requests. Progress bars and cost tables use it.

        Raises OutOfReachError, whose text states the bound, if the search would need too many losses in this space.
        """
        ...


@dataclass(frozen=True)
class Rise:
    """Compares masks by the rise of their loss per cost: (loss - loss of `base`) / cost. All costs are positive."""

    base: Mask
    costs: Mapping[Mask, float]

    def rate(self, mask: Mask, loss: float, before: float) -> float:
        """The rise per cost of a mask with this loss; `before` is the loss of `base`."""
        return (loss - before) / self.costs[mask]


@dataclass(frozen=True)
class Lazy:
    """Predictions for the candidates of a lazy round, with which unlikely ones are skipped (`search/decide.py`).

    `predicted` maps each candidate to its predicted loss; if it is empty, all candidates are scored. `risk` is the
    accepted probability that this round skips a candidate that would be chosen. `squares` is the sum of the squared
    errors of earlier rounds' predictions, each about its round's mean; `freedom` is the sum's degrees of freedom.
    """

    predicted: Mapping[Mask, float]
    risk: float
    squares: float = 0.0
    freedom: int = 0


@dataclass(frozen=True)
class Ask:
    """A request for the losses of masks. The answer is a list of floats in the same order.

    If `best` is given, the search uses only this many losses: the lowest or, with `rise`, those of lowest
    rise per cost. For a mask that a race or a bound rules out, the answer is infinite. If `samples` (at least 1) is
    given, losses are computed on the first `samples` samples, or on all if there are fewer. No search requests a mask
    twice on the same number of samples, except to compare rises per cost.

    With `lazy` and `best`, masks can be skipped: they are scored in order, and the answer for the skipped ones is
    infinite. If a race has ruled a mask out, the answer is an estimate above the losses used.
    """

    masks: Sequence[Mask]
    best: int | None = None
    samples: int | None = None
    rise: Rise | None = None
    lazy: Lazy | None = None


@dataclass(frozen=True)
class Gates:
    """A request for d(term of sample s) / d(gate of unit i). The float64 answer has shape (samples, n_units).

    A unit turns the hidden state h into F(h). Its gate a scales what it adds: h becomes h + a * (F(h) - h). So a = 1
    keeps the unit and a = 0 removes it. If an objective has no gradient, the answer is the secant: the sample's term
    in the dense model minus its term without unit i. Secants need N + 1 losses: the dense model's and one per unit.
    """


@dataclass(frozen=True)
class Found:
    """The outcome of a search: a mask of the space, and the reason why the search stopped, as text."""

    mask: Mask
    why: str


Request: TypeAlias = Ask | Gates
# The answer to Ask is a list of floats, the answer to Gates an array.
Proposals: TypeAlias = Generator[Request, Any, Found]


@dataclass
class Known:
    """The losses that a search has received, kept so that it does not ask for them again."""

    losses: dict[Mask, float] = field(default_factory=dict)

    def ask(self, masks: Iterable[Mask], best: int | None = None) -> Generator[Request, Any, list[float]]:
        """Return the losses of all masks, requesting only unknown ones: `losses = yield from known.ask(masks)`."""
        masks = list(masks)
        if new := [mask for mask in dict.fromkeys(masks) if mask not in self.losses]:
            self.losses.update(zip(new, (yield Ask(new, best)), strict=True))
        return [self.losses[mask] for mask in masks]

    def best(self, space: Space) -> Mask:
        """The mask of the space with the lowest known loss. Ties go to the mask that was scored first."""
        return min((mask for mask in self.losses if mask in space), key=self.losses.__getitem__)


def check_above(algo: Algo, **bounds: float) -> None:
    """Raise InputError if a setting is not above its lower bound."""
    for name, bound in bounds.items():
        if not (value := getattr(algo, name)) > bound:
            raise InputError(f"algo.{name}={value:g} is too small: choose a number above {bound:g}.")
