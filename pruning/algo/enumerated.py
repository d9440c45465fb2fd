"""Searches that choose from a list of masks which no loss changes: all of a space, windows, or random ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pruning.algo import Ask, Found, Proposals
from pruning.algo._moves import draw, fresh
from pruning.core.errors import OutOfReachError, check_least
from pruning.core.mask import Mask, Space, unit_noun

BATCH = 256  # masks that exhaustive asks for at a time


@dataclass(frozen=True)
class Exhaustive:
    """Scores every mask of a space of at most `limit` masks, to find the true optimum.

    So it shows whether another search missed a better mask. Masks are asked for in lexicographic order, so the masks
    of a batch share their first blocks, which are computed once. Ties go to the first mask.
    """

    limit: int = 50_000

    def __post_init__(self) -> None:
        check_least("algo", self, limit=1)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for batch after batch, keeping only the best mask."""
        self.evaluations(space)  # raises if the space is too large
        masks = space.masks()
        best: tuple[float, Mask] = (math.inf, space.dense)
        while batch := list(islice(masks, BATCH)):
            losses = yield Ask(batch, best=1)
            best = min(best, *zip(losses, batch, strict=True), key=lambda scored: scored[0])
        return Found(best[1], "every mask of the space was scored")

    def evaluations(self, space: Space) -> int:
        """The size of the space: N choose k without a budget. Raises OutOfReachError if that is more than `limit`."""
        if space.size > self.limit:
            asked, lower = (f", k = {space.k}", "k") if space.budget is None else (" on a budget", "ratio")
            raise OutOfReachError(
                f"algo=exhaustive would score {space.size:,} masks ({len(space.free())} "
                f"{unit_noun(space.unit)}s{asked}), more than algo.limit={self.limit}: raise the limit, lower "
                f"{lower}, or choose another search."
            )
        return space.size


@dataclass(frozen=True)
class Contiguous:
    """Scores each window of k neighbouring units once.

    Unprotected blocks with only protected blocks between them are neighbours. On a budget, a window takes units in
    order until it meets the budget, and leaves out a unit that does not fit. Ties go to the earlier window.

    Source: "The Unreasonable Ineffectiveness of the Deeper Layers" (arXiv 2403.17887, section 3.2), by the angular
    distance of hidden states; LLM-Streamline (arXiv 2403.19135), by another similarity.
    """

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch of all windows."""
        masks = _windows(space)
        losses = yield Ask(masks, best=1)
        return Found(masks[int(np.argmin(losses))], "every window was scored")

    def evaluations(self, space: Space) -> int:
        """The number of windows: N - k + 1 without a budget."""
        return len(_windows(space))


def _windows(space: Space) -> list[Mask]:
    """The masks of the space that remove neighbouring units, in the order of their first units."""
    units = space.fitting()
    runs = (space.filled((), units[start:]) for start in range(len(units)))
    return [mask for mask in runs if space.complete(mask)]


@dataclass(frozen=True)
class Random:
    """The best of `trials` distinct masks drawn at random, a baseline that any search should beat at equal cost.

    200 trials are the budget of the paper's Bayesian search. No prior is used, so the result can be worse than the
    one-shot set. Without a budget, all masks are equally likely. On a budget, units are drawn one by one, and those
    that fit are removed.
    """

    trials: int = 200

    def __post_init__(self) -> None:
        check_least("algo", self, trials=1)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Ask for one batch of min(trials, size of the space) masks."""
        every = space.size <= self.trials
        drawn: dict[Mask, None] = dict.fromkeys(space.masks()) if every else {}
        while len(drawn) < self.evaluations(space):
            mask = draw(space, rng)
            drawn[mask if space.budget is None else fresh(mask, drawn, space, rng)] = None
        masks = list(drawn)
        losses = yield Ask(masks, best=1)
        why = "every mask of the space was scored" if every else f"{self.trials} masks were drawn"
        return Found(masks[int(np.argmin(losses))], why)

    def evaluations(self, space: Space) -> int:
        """The number of masks that are drawn: min(trials, size of the space)."""
        return min(self.trials, space.size)
