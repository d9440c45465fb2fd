"""Searches. Each file holds one: a frozen dataclass of hyper-parameters with a `propose` generator.

A search asks for the losses of masks by yielding them and is told them in the same order. It knows masks
and numpy only: no model, no objective, no clock; all randomness comes from `rng`. So it is a pure function
of (seed, losses), and replaying it against a journal of losses brings it back to where it stood.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from pruning.mask import Mask, Space

Proposals: TypeAlias = Generator[Sequence[Mask], Sequence[float], Mask]


class Algo(Protocol):
    """What every search offers."""

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Yield masks, receive their losses, return one mask of `space`."""
        ...

    def evaluations(self, space: Space) -> int:
        """How many losses it will ask for at the most; for progress bars and cost tables."""
        ...
