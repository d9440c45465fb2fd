"""Contiguous: the best window of k neighbouring blocks.

Source: "The Unreasonable Ineffectiveness of the Deeper Layers" (arXiv 2403.17887, section 3.2) removes the window
l..l+n-1 whose input and output are most alike; LLM-Streamline (arXiv 2403.19135) does the same with another
similarity. There the criterion is an angular distance of hidden states, which is a matter of the objective here:
this is the search alone, under whatever loss is chosen. Ties go to the earlier window. Where protected blocks lie
in between, neighbours are neighbours among the unprotected.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.algo import Ask, Found, Proposals
from pruning.core.mask import Space


@dataclass(frozen=True)
class Contiguous:
    """Score each window once. Blocks that are far apart are never removed together."""

    max_evaluations: int | None = None

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """One batch of all windows."""
        blocks = space.free()
        masks = [space.drop(*blocks[start : start + space.k]) for start in range(self.evaluations(space))]
        losses = yield Ask(masks, best=1)
        return Found(masks[int(np.argmin(losses))], "every window was scored")

    def evaluations(self, space: Space) -> int:
        """One for each window: N - k + 1."""
        return len(space.free()) - space.k + 1
