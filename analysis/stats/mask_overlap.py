"""Masks as sets of units, the overlap of two masks, and pairs of cells that differ in only one factor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .grid import CELL, COMPARISONS, Labels, labels, masks, n_open


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
        """For each i, the pair of the masks in rows first[i] and second[i]."""
        shared, sizes = (self.members[first] & self.members[second]).sum(axis=1), self.members.sum(axis=1)
        return Pairs(shared, sizes[first], sizes[second], self.open[first])


@dataclass(frozen=True)
class Pairs:
    """Units per pair: both masks remove `shared`; the first removes `a` of its `open` units, the second `b`."""

    shared: Labels
    a: Labels
    b: Labels
    open: Labels

    @property
    def jaccard(self) -> NDArray[np.float64]:
        """The Jaccard overlap, as in `Mask.jaccard`."""
        either = self.a + self.b - self.shared
        return np.where(either > 0, self.shared / np.maximum(either, 1), 1.0)

    @property
    def changed(self) -> NDArray[np.float64]:
        """How many units differ: the number that one mask removes and the other keeps, averaged over both masks."""
        return (self.a + self.b) / 2 - self.shared


def compared(frame: pd.DataFrame, comparison: str) -> tuple[Labels, Labels]:
    """The row numbers of pairs of cells, as two arrays (pairs,). Pairs differ only in COMPARISONS[comparison]."""
    # Cells with different protected blocks are not paired: the overlap expected by chance would differ.
    varied = COMPARISONS[comparison]
    fixed = [*(column for column in CELL if column != varied), "protect_first", "protect_last"]
    group, level = labels(frame, fixed), labels(frame, [varied])
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    pairs = [(rows[i], rows[j]) for rows in members for i, j in [np.triu_indices(len(rows), 1)]]
    first, second = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    other = level[first] != level[second]
    return first[other], second[other]
