"""Contiguous runs of units. Sources: "The Unreasonable Ineffectiveness of the Deeper Layers" (arXiv
2403.17887, section 3.2), with the angular distance of hidden states; LLM-Streamline (arXiv 2403.19135).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.algo import Ask, Found, Proposals
from pruning.core.mask import Mask, Space


@dataclass(frozen=True)
class Contiguous:
    """Scores each run of k neighbouring units once, and removes the best.

    Unprotected blocks with only protected blocks between them count as neighbours. If a share of the cost is
    removed, a run takes the units that fit, in order, until the share is met. Ties go to the earlier run.
    """

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Request one batch of all runs."""
        masks = _windows(space)
        losses = yield Ask(masks, best=1)
        return Found(masks[int(np.argmin(losses))], "every window was scored")

    def evaluations(self, space: Space) -> int:
        """The number of runs: N - k + 1 if k units are removed."""
        return len(_windows(space))


def _windows(space: Space) -> list[Mask]:
    """The masks of the space that remove neighbouring units, in the order of their first units."""
    units = space.fitting()
    runs = (space.filled((), units[start:]) for start in range(len(units)))
    return [mask for mask in runs if space.complete(mask)]
