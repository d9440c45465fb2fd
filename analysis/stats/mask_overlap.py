"""Jaccard overlap of masks, compared with the overlap of random masks.

Null model: each mask is a uniformly random set of its size among the blocks that may be removed. Then the
number of shared blocks is hypergeometric, which gives the expected overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from .grid import CELL, COMPARISONS, Labels, labels, masks, n_open
from .means import CellDraws, DrawMean, over_pairs, without_interval


@cache
def expected(n_open: int, a: int, b: int) -> float:
    """Mean Jaccard overlap of two independent random sets, of sizes a and b, among `n_open` blocks."""
    shared = np.arange(max(0, a + b - n_open), min(a, b) + 1)
    return float(stats.hypergeom.pmf(shared, n_open, a, b) @ (shared / (a + b - shared)))


@dataclass(frozen=True)
class MaskSet:
    """Masks as sets (masks, units), and the number of units that each could have removed."""

    members: NDArray[np.bool_]
    open: Labels

    @classmethod
    def of(cls, frame: pd.DataFrame) -> MaskSet:
        """The masks of finished cells."""
        every = masks(frame)
        members = np.zeros((len(every), max((mask.n_units for mask in every), default=1)), dtype=bool)
        for row, mask in zip(members, every, strict=True):
            row[list(mask.dropped)] = True
        return cls(members, n_open(frame).to_numpy().astype(np.int64))

    def pairs(self, first: Labels, second: Labels) -> Pairs:
        """The pairs of rows `first` with rows `second`."""
        shared, sizes = (self.members[first] & self.members[second]).sum(axis=1), self.members.sum(axis=1)
        return Pairs(shared, sizes[first], sizes[second], self.open[first])


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
        """(J - E[J]) / (max J - E[J]): 0 is the value expected by chance; 1 is the maximum for sets of these sizes.

        For equal sizes max J is 1. The result is NaN if a mask removes all open blocks, because then E[J] = max J.
        """
        small, large = np.minimum(self.a, self.b), np.maximum(self.a, self.b)
        sizes, where = np.unique(np.stack([self.open, small, large], axis=1), axis=0, return_inverse=True)
        chance = np.array([expected(*row) for row in sizes.tolist()], dtype=float)[where.reshape(-1)]
        with np.errstate(invalid="ignore", divide="ignore"):
            room = small / large - chance
            return np.where(room > 1e-12, (self.jaccard - chance) / room, np.nan)

    @property
    def lowest(self) -> NDArray[np.float64]:
        """The lowest possible `corrected`: the masks share as few blocks as there must be in both."""
        return replace(self, shared=np.maximum(0, self.a + self.b - self.open)).corrected


# Pairs of masks whose cells differ in one factor only.


def overlap(frame: pd.DataFrame, comparison: str) -> DrawMean:
    """The mean corrected overlap of cells that differ only in the columns COMPARISONS[comparison], over draws.

    The interval is cut to what overlaps of such masks can be. Between draws there is none (see `estimands.Change`).
    """
    i, j = compared(frame, comparison)
    pairs, drawn = MaskSet.of(frame).pairs(i, j), CellDraws.of(frame)
    mean = over_pairs(pairs.corrected, drawn.take(i), drawn.take(j))
    if comparison == "draws" or not len(i):
        return without_interval(mean)
    low = float(np.maximum(pairs.lowest.mean(), mean.low))
    return replace(mean, low=low, high=float(np.minimum(1.0, mean.high)))


def compared(frame: pd.DataFrame, comparison: str) -> tuple[Labels, Labels]:
    """The rows (pairs,) and (pairs,) of the pairs of a comparison."""
    # Cells with different protected blocks are apart, because two masks need the same open blocks in the null model.
    fixed = [column for column in CELL if column not in COMPARISONS[comparison]]
    group = labels(frame, [*fixed, "protect_first", "protect_last"])
    return within(group, labels(frame, [COMPARISONS[comparison][0]]))


def within(group: Labels, level: Labels) -> tuple[Labels, Labels]:
    """The rows (pairs,) and (pairs,) of all pairs of a group (cells,), except pairs of equal `level` (cells,)."""
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    pairs = [(rows[i], rows[j]) for rows in members for i, j in [np.triu_indices(len(rows), 1)]]
    first, second = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    other = level[first] != level[second]
    return first[other], second[other]
