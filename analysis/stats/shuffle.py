"""Random arrangements of the labels of a source of variation, as its null hypothesis allows."""

from __future__ import annotations

import math
from itertools import groupby

import numpy as np
import pandas as pd

from . import pairing
from .grid import Labels, labels
from .sources import Rows, VarianceSource

ENOUGH = 1e9  # larger numbers of arrangements are reported as this number


class Shuffle:
    """Shuffles the labels of a source among units of the same block."""

    def __init__(self, frame: pd.DataFrame, source: VarianceSource) -> None:
        self.unit = labels(frame, source.units)
        _, first = np.unique(self.unit, return_index=True)
        self.values = labels(frame, [source.moved])[first]
        block = labels(frame, source.blocks)[first]
        self.blocks = list(pairing.members(block))
        self.parents = labels(frame, [c for c in source.columns if c != source.moved])

    def draws(self, rng: np.random.Generator, draws: int) -> Labels:
        """Labels of the units (draws, units), shuffled within blocks."""
        moved = np.tile(self.values, (draws, 1))
        alike = [
            np.array(list(same)) for _, same in groupby(self.blocks, len)
        ]  # blocks in order, by equal size
        for row in moved:
            for blocks in alike:
                row[blocks] = rng.permuted(row[blocks], axis=1)
        return moved

    def levels(self, moved: Labels, rows: Rows) -> Labels:
        """The levels (draws, n) of the source in `rows`, given labels of the units (draws, units)."""
        return self.parents[rows] * (int(self.values.max()) + 1) + moved[:, self.unit[rows]]

    @property
    def arrangements(self) -> float:
        """An upper bound for the number of distinct values of the statistic. Renamed levels count once."""
        total = 0.0
        for block in self.blocks:
            _, sizes = np.unique(self.values[block], return_counts=True)
            total += math.lgamma(len(block) + 1) - sum(math.lgamma(size + 1) for size in sizes)
        _, sizes = np.unique(self.values, return_counts=True)
        alike = np.unique(sizes, return_counts=True)[1]
        total -= sum(math.lgamma(count + 1) for count in alike)
        return min(ENOUGH, round(math.exp(min(total, 30.0)), 6))
