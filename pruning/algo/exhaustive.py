"""Exhaustive search, whose optimum shows whether another search missed a better mask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pruning.algo import Ask, Found, Proposals
from pruning.core.errors import OutOfReachError, check_least
from pruning.core.mask import Mask, Space, unit_noun

BATCH = 256  # masks per request


@dataclass(frozen=True)
class Exhaustive:
    """Scores every mask of a space of at most `limit` masks.

    Masks are scored in lexicographic order, so the masks of a batch share their first blocks, which are computed
    once. Ties go to the first mask.
    """

    limit: int = 50_000

    def __post_init__(self) -> None:
        check_least("algo", self, limit=1)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Request batch after batch, keeping only the best mask."""
        self.evaluations(space)  # raises if the space is too large
        masks = space.masks()
        best: tuple[float, Mask] = (math.inf, space.dense)
        while batch := list(islice(masks, BATCH)):
            losses = yield Ask(batch, best=1)
            best = min(best, *zip(losses, batch, strict=True), key=lambda scored: scored[0])
        return Found(best[1], "every mask of the space was scored")

    def evaluations(self, space: Space) -> int:
        """The size of the space: N choose k if k units are removed. Raises OutOfReachError if it exceeds `limit`."""
        if space.size > self.limit:
            asked, lower = (f", k = {space.k}", "k") if space.budget is None else (" on a budget", "ratio")
            raise OutOfReachError(
                f"algo=exhaustive would score {space.size:,} masks ({len(space.free())} "
                f"{unit_noun(space.unit)}s{asked}), more than algo.limit={self.limit}: raise the limit, lower "
                f"{lower}, or choose another search."
            )
        return space.size
