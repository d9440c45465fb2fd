"""Which cells a resampled draw borrows its deviations from: the same cell, under other draws of the same data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .grid import DRAW, Labels, labels

PARTNERS = 8  # a draw borrows from at most this number of draws, itself included
COLUMNS = 480  # about the largest number of weights; studies with more draws borrow from fewer partners


@dataclass(frozen=True)
class Borrowed:
    """Entry e: cell row[e] receives weight[column[e]] * factor[e] times the deviation of cell donor[e]."""

    row: Labels
    donor: Labels
    column: Labels
    factor: NDArray[np.float64]
    columns: int

    def of(self, rows: Labels) -> Borrowed:
        """The entries of some cells, which are numbered anew. Each of these cells has its donors among them."""
        number = np.full(int(max(self.row.max(initial=0), rows.max(initial=0))) + 1, -1)
        number[rows] = np.arange(len(rows))
        kept = number[self.row] >= 0
        row, donor = number[self.row[kept]], number[self.donor[kept]]
        return Borrowed(row, donor, self.column[kept], self.factor[kept], self.columns)


def borrowed(frame: pd.DataFrame, panel: Sequence[str]) -> Borrowed:
    """The donors of every cell. Cells with equal values in the columns `panel` differ only in the draw.

    The draws of the same data are put in a circle, and each borrows from itself and from the next ones. If cells
    are repeats, the first borrows from the first, and so on. The factor makes the variance of a resampled deviation
    that of one draw: with m draws, deviations from their mean are too small by the factor (m - 1) / m.
    """
    cluster, group = labels(frame, DRAW), labels(frame, [name for name in DRAW if name != "draw"])
    position, size = _circle(cluster, group)
    partners = min(PARTNERS, max(2, COLUMNS // (int(cluster.max()) + 1)), int(size.max()))
    same = labels(frame, panel)
    repeat = frame.groupby([same, cluster]).cumcount().to_numpy().astype(np.int64)
    find = _Finder(same, position, repeat)
    entries = [
        (rows, donors, cluster[rows] * partners + step)
        for step in range(partners)
        for rows in [np.flatnonzero(size > step)]
        for rows, donors in [find(rows, (position[rows] + step) % size[rows])]
    ]
    row, donor, column = (np.concatenate(values) for values in zip(*entries, strict=True))
    drawn = pd.Series(cluster).groupby(same).transform("nunique").to_numpy()
    having = np.bincount(row, minlength=len(frame))
    factor = np.sqrt(drawn / np.maximum(drawn - 1, 1) / np.maximum(having, 1))
    return Borrowed(row, donor, column, factor[row], (int(cluster.max()) + 1) * partners)


def _circle(cluster: Labels, group: Labels) -> tuple[Labels, Labels]:
    """The position (n,) of each cell's draw among the draws of the same data, and the number (n,) of these draws."""
    distinct, first = np.unique(cluster, return_index=True)
    of = pd.Series(group[first])
    position, size = of.groupby(of).cumcount().to_numpy(), of.groupby(of).transform("size").to_numpy()
    at = np.searchsorted(distinct, cluster)
    return position[at].astype(np.int64), size[at].astype(np.int64)


class _Finder:
    """Finds the cell of a panel that has a position in the circle."""

    def __init__(self, same: Labels, position: Labels, repeat: Labels) -> None:
        self.same, self.repeat = same, repeat
        self.positions, self.repeats = int(position.max()) + 1, int(repeat.max()) + 1
        place = same * self.positions + position
        self.count = np.bincount(place, minlength=(int(same.max()) + 1) * self.positions)
        key = place * self.repeats + repeat
        self.order = np.argsort(key)
        self.keys = key[self.order]

    def __call__(self, rows: Labels, position: Labels) -> tuple[Labels, Labels]:
        """Those of the rows whose panel has the position (rows,), and the cells there."""
        place = self.same[rows] * self.positions + position
        there = self.count[place] > 0
        rows, place = rows[there], place[there]
        key = place * self.repeats + self.repeat[rows] % self.count[place]
        return rows, self.order[np.searchsorted(self.keys, key)]
