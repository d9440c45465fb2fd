"""Are masks more alike if they differ in one factor than if they differ in another? With an interval over draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from . import pairing
from .grid import COMPARISONS, DRAW, Labels, labels
from .overlap import MaskSet
from .overlap_pairs import panels

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

    Both are keys of COMPARISONS. None if there are no pairs of one kind. Pairs share masks, and masks share draws. So
    the interval comes from the jackknife: each draw is left out in turn, with all pairs of its masks.
    """
    draw = labels(frame, DRAW)
    both = [_Overlaps.of(frame, name, draw) for name in (first, second)]
    if any(not len(each.corrected) for each in both):
        return None
    means = [each.mean(lambda of: np.ones(len(of.corrected), dtype=bool)) for each in both]
    every = np.unique(draw)
    left = np.array([[each.mean(lambda of, d=d: of.without(d)) for each in both] for d in every])
    left = left[~np.isnan(left).any(axis=1)]
    n = len(left)
    if n < 3:
        return OverlapDifference(*means)
    apart = left[:, 0] - left[:, 1]
    error = np.sqrt((n - 1) / n * ((apart - apart.mean()) ** 2).sum())
    half = float(stats.t.ppf(0.975, n - 1) * error)
    middle = means[0] - means[1]
    return OverlapDifference(*means, middle - half, middle + half, n)


@dataclass(frozen=True)
class _Overlaps:
    """The corrected overlap of each pair, and the draws of its two masks."""

    corrected: NDArray[np.float64]
    a: Labels
    b: Labels

    @classmethod
    def of(cls, frame: pd.DataFrame, comparison: str, draw: Labels) -> _Overlaps:
        i, j = pairing.within(panels(frame, comparison), labels(frame, [COMPARISONS[comparison][0]]))
        corrected = MaskSet.of(frame).pairs(i, j).corrected
        known = ~np.isnan(corrected)
        return cls(corrected[known], draw[i][known], draw[j][known])

    def without(self, draw: int) -> NDArray[np.bool_]:
        """The pairs of which no mask is from a draw."""
        return np.asarray((self.a != draw) & (self.b != draw))

    def mean(self, chosen: Callable[[_Overlaps], NDArray[np.bool_]]) -> float:
        kept = self.corrected[chosen(self)]
        return float(kept.mean()) if len(kept) else NAN
