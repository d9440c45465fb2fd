"""Are masks more alike if they differ in one factor than if they differ in another? With an interval over draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from .grid import DRAW, Labels, labels, several_sizes
from .overlap import MaskSet
from .overlap_pairs import compared, on_common_samples

NAN = float("nan")


@dataclass(frozen=True)
class OverlapDifference:
    """Two mean corrected overlaps, and the 95 percent interval of first minus second over calibration draws."""

    first: float
    second: float
    low: float = NAN
    high: float = NAN
    draws: int = 0


def difference(frame: pd.DataFrame, first: str, second: str) -> OverlapDifference | None:
    """Compare the overlap of cells that differ only in `first` with that of cells that differ only in `second`.

    Both are keys of COMPARISONS. None if there are no pairs of one kind. If one is "objectives", both means are over
    the cells whose samples several objectives have read. Pairs share masks, and masks share draws. So
    the interval comes from the jackknife: each draw is left out in turn, with all pairs of its masks. If draws are of
    several sizes from the same data, there is no interval, because these draws contain each other.
    """
    frame = on_common_samples(frame) if "objectives" in (first, second) else frame
    draw = labels(frame, DRAW)
    both = [_Overlaps.of(frame, name, draw) for name in (first, second)]
    if any(not len(each.corrected) for each in both):
        return None
    first_mean, second_mean = (each.mean() for each in both)
    left = np.array([[each.without(d).mean() for each in both] for d in np.unique(draw)])
    left = left[~np.isnan(left).any(axis=1)]
    n = len(left)
    if n < 3 or several_sizes(frame):
        return OverlapDifference(first_mean, second_mean)
    apart = left[:, 0] - left[:, 1]
    error = np.sqrt((n - 1) / n * ((apart - apart.mean()) ** 2).sum())
    half = float(stats.t.ppf(0.975, n - 1) * error)
    middle = first_mean - second_mean
    return OverlapDifference(first_mean, second_mean, middle - half, middle + half, n)


@dataclass(frozen=True)
class _Overlaps:
    """The corrected overlap of each pair, and the draws of its two masks."""

    corrected: NDArray[np.float64]
    a: Labels
    b: Labels

    @classmethod
    def of(cls, frame: pd.DataFrame, comparison: str, draw: Labels) -> _Overlaps:
        i, j = compared(frame, comparison)
        corrected = MaskSet.of(frame).pairs(i, j).corrected
        known = ~np.isnan(corrected)
        return cls(corrected[known], draw[i][known], draw[j][known])

    def without(self, draw: int) -> _Overlaps:
        """The pairs of which no mask is from a draw."""
        kept = (self.a != draw) & (self.b != draw)
        return _Overlaps(self.corrected[kept], self.a[kept], self.b[kept])

    def mean(self) -> float:
        """The mean overlap; NaN if there are no pairs."""
        return float(self.corrected.mean()) if len(self.corrected) else NAN
