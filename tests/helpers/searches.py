"""Run searches on known losses: a search alone, or with journals and a store as in a cell."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from pruning.algo import Algo, Ask, Found, Gates, Proposals, Request
from pruning.config.app import register
from pruning.config.groups import CONF, options
from pruning.core import scoring
from pruning.core.mask import Mask, Space
from pruning.core.scoring import Estimate, Score
from pruning.objective import Loss, Scored
from pruning.search import driver
from pruning.search.decide import Racing, View, following
from pruning.search.driver import Problem, Solution, solve
from pruning.search.journal import Journal, Losses, Store, Watch, claim

LossOf = Callable[[Mask], float]


@cache
def composed(group: str) -> dict[str, Any]:
    """Every member of a group of `conf`, built with the settings of its YAML file."""
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return {name: instantiate(compose("config", [f"{group}={name}"])[group]) for name in options(group)}


def configured() -> dict[str, Algo]:
    """Every search with the settings of its YAML file."""
    return composed("algo")


@cache
def pairwise(n_units: int, seed: int, strength: float = 1.0, dense: float = 0.0) -> LossOf:
    """A loss with a term for each unit and each pair. `random.Random` gives equal numbers on all platforms."""
    numbers = random.Random(seed)
    single = [numbers.random() for _ in range(n_units)]
    pair = {both: strength * (numbers.random() - 0.5) for both in combinations(range(n_units), 2)}

    def loss(mask: Mask) -> float:
        pairs = sum(pair[p] for p in combinations(mask.dropped, 2))
        return dense + sum(single[i] for i in mask.dropped) + pairs

    return loss


def optimum(space: Space, loss: LossOf) -> Mask:
    return min(space.masks(), key=loss)


@dataclass
class Scripted:
    """A search that follows a script: `script(space)` yields its requests and returns its answer."""

    script: Callable[[Space], Generator[Request, Any, Mask]]

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        return Found((yield from self.script(space)), "the script ended")

    def evaluations(self, space: Space) -> int:
        return space.size


# A search alone.


@dataclass(frozen=True)
class SearchRun:
    """The requests of a search, the losses that it received, its answer, and why it stopped."""

    requests: tuple[Ask, ...]
    losses: tuple[tuple[float, ...], ...]
    answer: Mask
    why: str

    @property
    def batches(self) -> list[tuple[Mask, ...]]:
        return [tuple(request.masks) for request in self.requests]

    @property
    def asked(self) -> list[Mask]:
        return [mask for batch in self.batches for mask in batch]

    @property
    def scores(self) -> list[tuple[Mask, int | None]]:
        """For each requested loss, the mask and the number of samples."""
        return [(mask, request.samples) for request in self.requests for mask in request.masks]


def drive(
    algo: Algo,
    space: Space,
    loss: LossOf,
    seed: int = 0,
    known: Sequence[Sequence[float]] = (),
    gradient: LossOf | None = None,
    racing: bool = False,
    most: int | None = None,
) -> SearchRun:
    """Run a search on at most `most` masks. `known` has the losses of the first batches, like a journal.

    The loss `gradient` (None: `loss`) determines gates. With `racing`, losses that do not matter are infinite.
    """
    requests: list[Ask] = []
    losses: list[tuple[float, ...]] = []
    proposals = driver.proposals(algo, space, np.random.default_rng(seed), most)
    try:
        request = next(proposals)
        while True:
            if isinstance(request, Gates):
                request = proposals.send(gates(space, gradient or loss))
                continue
            if len(losses) < len(known):
                found = dict(zip(request.masks, known[len(losses)], strict=True))
            else:
                found = answer(request, loss, racing)
            requests.append(replace(request, masks=tuple(found)))
            losses.append(tuple(found.values()))
            request = proposals.send([found.get(mask, math.inf) for mask in request.masks])
    except StopIteration as end:
        return SearchRun(tuple(requests), tuple(losses), end.value.mask, end.value.why)


def answer(request: Ask, loss: LossOf, racing: bool) -> dict[Mask, float]:
    """The losses of a request's masks, without those that a lazy round skips.

    If the request is for some of the samples only, each loss has a small, reproducible deviation.
    """
    rise = request.rise if racing or request.lazy is not None else None
    base = None if rise is None else Score(rise.base, loss(rise.base), (loss(rise.base),), 0.0)
    view = View(Estimate((1.0,), (0,)), rise, base)
    losses: dict[Mask, float] = {}
    best = len(request.masks) if request.best is None else request.best
    while batch := following(request, losses, best, view):
        losses |= {mask: loss(mask) + deviation(mask, request.samples) for mask in batch}
    if racing and request.best is not None:
        values = {mask: view.rate(mask, found) for mask, found in losses.items()}
        last = sorted(values.values())[: request.best][-1]
        losses = {mask: found if values[mask] <= last else math.inf for mask, found in losses.items()}
    return losses


def deviation(mask: Mask, samples: int | None) -> float:
    if samples is None:
        return 0.0
    return 0.1 * (random.Random(f"{samples} {mask.dropped}").random() - 0.5) / samples


def gates(space: Space, loss: LossOf, samples: int = 8) -> np.ndarray:
    """Gates (samples, units): the dense loss minus the loss without a unit, with a little noise for each sample."""
    falls = np.array([loss(space.dense) - loss(space.drop(i)) for i in range(space.n_units)])
    return falls * (1 + 0.01 * np.random.default_rng(0).standard_normal((samples, space.n_units)))


# A search as a cell runs it.


class TermLosses:
    """Losses with the terms `term(mask)` (samples,) and, if given, lower bounds `bound(mask)` and a gradient.

    `computed` lists the parts (mask, start, stop) that a search needed, `again` those that its result needed, and
    `bounded` the masks whose bounds were computed.
    """

    def __init__(
        self,
        term: Callable[[Mask], np.ndarray],
        samples: int,
        bound: Callable[[Mask], np.ndarray] | None = None,
        gradient: np.ndarray | None = None,
    ) -> None:
        self.term, self.samples, self.bound = term, samples, bound
        self.gradient, self.gradients = gradient, 0
        self.computed: list[tuple[Mask, int, int]] = []
        self.again: list[tuple[Mask, int, int]] = []
        self.bounded: list[Mask] = []

    @property
    def whole(self) -> Loss:
        return self.loss(0, self.samples, self.again)

    def part(self, start: int, stop: int) -> Loss:
        return self.loss(start, stop, self.computed)

    def loss(self, start: int, stop: int, computed: list[tuple[Mask, int, int]]) -> Loss:
        def terms(masks: Sequence[Mask]) -> Scored:
            for mask in masks:
                computed.append((mask, start, stop))
                yield mask, self.term(mask)[start:stop].tolist(), 0.5

        def bounds(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
            assert self.bound is not None
            for mask in reversed(masks):
                self.bounded.append(mask)
                yield mask, self.bound(mask)[start:stop].tolist(), 0.1

        def gates(_: str) -> np.ndarray:
            self.gradients += 1
            assert self.gradient is not None
            return self.gradient

        count = stop - start
        estimate = Estimate((1.0,) * count, (0,) * count)
        return Loss(
            estimate, terms, None if self.gradient is None else gates, None if self.bound is None else bounds
        )

    @property
    def masks(self) -> list[Mask]:
        """The masks that were computed for the search, in order."""
        return [mask for mask, *_ in self.computed]

    @property
    def terms_paid(self) -> int:
        return sum(stop - start for _, start, stop in self.computed)


def solved(
    folder: Path,
    losses: Losses,
    algo: Algo,
    space: Space,
    racing: Racing | None = None,
    cell: str = "cell",
    share: bool = True,
    watch: Watch = lambda *_: None,
    most: int | None = None,
    seed: int = 0,
) -> tuple[Solution, Journal]:
    """Run a search with a cell's journals and the store of a results folder; returns the solution and the journal.

    Bounds are used if `losses` has any.
    """
    (folder / cell).mkdir(parents=True, exist_ok=True)
    claim(folder, "key", cell)
    names = (scoring.NAME, scoring.BOUNDS)
    scores, bounds = (Journal.open(folder / cell / n, space.n_blocks, unit=space.unit) for n in names)
    for name, own in zip(names, (scores, bounds), strict=True) if share else ():
        own.others = Store(folder, "key", cell, space.n_blocks, space.unit, name=name)
    problem = Problem(algo, space, seed, racing or Racing(), max_evaluations=most, bounds=True)
    return solve(problem, losses, scores, watch, bounds=bounds), scores
