"""Jaccard overlap of masks, compared with the overlap of random masks.

Null model: each mask is a uniformly random set of its size among the blocks that may be removed. Then the
number of shared blocks is hypergeometric, which gives the expected overlap and an exact p-value.

`corrected` and `p_value` are for one pair. `MaskSet` gives the same numbers for many pairs at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from pruning.core.mask import Mask

from . import bits
from .grid import Labels
from .removal import masks, n_open


@cache
def expected(n_open: int, a: int, b: int) -> float:
    """Mean Jaccard overlap of two independent random sets, of sizes a and b, among `n_open` blocks."""
    shared = np.arange(max(0, a + b - n_open), min(a, b) + 1)
    return float(stats.hypergeom.pmf(shared, n_open, a, b) @ (shared / (a + b - shared)))


def corrected(first: Mask, second: Mask, n_open: int) -> float:
    """(J - E[J]) / (max J - E[J]): 0 is the value expected by chance; 1 is the maximum for two sets of these sizes.

    For equal sizes max J is 1. The result is NaN if a mask removes all open blocks, because then E[J] = max J.
    """
    a, b = sorted((len(first.dropped), len(second.dropped)))
    chance, most = expected(n_open, a, b), a / b
    return (first.jaccard(second) - chance) / (most - chance) if most - chance > 1e-12 else float("nan")


def p_value(first: Mask, second: Mask, n_open: int) -> float:
    """Exact probability that two random sets of these sizes share at least as many blocks as the two masks."""
    shared = len(set(first.dropped) & set(second.dropped))
    return _tail(shared, n_open, len(first.dropped), len(second.dropped))


@cache
def _tail(shared: int, n_open: int, a: int, b: int) -> float:
    return float(stats.hypergeom.sf(shared - 1, n_open, a, b))


@dataclass(frozen=True)
class MaskSet:
    """Masks as words, the number of blocks that each removes, and the number that it could have removed."""

    words: bits.Words
    sizes: Labels
    open: Labels

    @classmethod
    def of(cls, frame: pd.DataFrame) -> MaskSet:
        """The masks of finished cells."""
        words = bits.words(masks(frame))
        return cls(words, bits.sizes(words), n_open(frame).to_numpy().astype(np.int64))

    def part(self, rows: Labels) -> MaskSet:
        """The masks in some rows."""
        return MaskSet(self.words[rows], self.sizes[rows], self.open[rows])

    def pairs(self, first: Labels, second: Labels, others: MaskSet | None = None) -> Pairs:
        """The pairs of rows `first` with rows `second`. If `others` is given, `second` are its rows."""
        other = others if others is not None else self
        shared = bits.shared(self.words[first], other.words[second])
        return Pairs(shared, self.sizes[first], other.sizes[second], self.open[first])


@dataclass(frozen=True)
class Pairs:
    """For each pair: the shared blocks, the blocks that each mask removes, and the blocks open to the first."""

    shared: Labels
    a: Labels
    b: Labels
    open: Labels

    @property
    def jaccard(self) -> NDArray[np.float64]:
        """As `Mask.jaccard`."""
        either = self.a + self.b - self.shared
        return np.where(either > 0, self.shared / np.maximum(either, 1), 1.0)

    @property
    def corrected(self) -> NDArray[np.float64]:
        """As `corrected`."""
        small, large = np.minimum(self.a, self.b), np.maximum(self.a, self.b)
        chance = _each(expected, self.open, small, large)
        with np.errstate(invalid="ignore", divide="ignore"):
            room = small / large - chance
            return np.where(room > 1e-12, (self.jaccard - chance) / room, np.nan)

    @property
    def lowest(self) -> NDArray[np.float64]:
        """The lowest possible `corrected`: the masks share as few blocks as there must be in both."""
        return replace(self, shared=np.maximum(0, self.a + self.b - self.open)).corrected

    @property
    def p(self) -> NDArray[np.float64]:
        """As `p_value`."""
        return _each(_tail, self.shared, self.open, self.a, self.b)


def _each(function: Callable[..., float], *numbers: ArrayLike) -> NDArray[np.float64]:
    """A function of whole numbers, elementwise. It is called once for each combination of values that occurs."""
    rows, where = np.unique(np.stack([np.asarray(n) for n in numbers], axis=1), axis=0, return_inverse=True)
    return np.array([function(*row) for row in rows.tolist()], dtype=float)[where.reshape(-1)]
