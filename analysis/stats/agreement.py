"""Do two rankings agree? Spearman's correlation with a bootstrap interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

BOOTSTRAP = 2000
LEAST = 4  # the fewest pairs accepted; with three, the smallest possible two-sided p-value is 1/3
NAN = float("nan")


@dataclass(frozen=True)
class Agreement:
    """A rank correlation of n pairs, with its interval. `note` says why a value is NaN."""

    statistic: float
    low: float
    high: float
    n: int
    note: str = ""


def agree(x: ArrayLike, y: ArrayLike, seed: int = 0) -> Agreement:
    """Spearman's correlation of two outcomes over the same cells. Pairs with a NaN are omitted and not counted.

    The 95 percent interval comes from the percentile bootstrap over pairs; resamples in which one side is constant
    are omitted.
    """
    pairs = np.column_stack([np.asarray(x, float), np.asarray(y, float)])
    a, b = pairs[~np.isnan(pairs).any(axis=1)].T
    n = len(a)
    if n < LEAST:
        note = f"{n} pair{'s' * (n != 1)}; at least {LEAST} are needed"
        return Agreement(NAN, NAN, NAN, n, note)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return Agreement(NAN, NAN, NAN, n, "one of the rankings is constant")
    low = high = NAN
    if n > LEAST:
        drawn = np.random.default_rng(seed).integers(n, size=(BOOTSTRAP, n))
        low, high = map(float, np.nanquantile(spearman(a[drawn], b[drawn]), [0.025, 0.975]))
    return Agreement(float(spearman(a, b)), low, high, n)


def spearman(x: NDArray[Any], y: NDArray[Any]) -> Any:
    """Pearson's correlation of ranks along the last axis. Tied ranks are averaged; NaN if `x` or `y` is constant."""
    a, b = (stats.rankdata(values, axis=-1) for values in (x, y))
    a, b = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (a, b))
    below = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=-1) / below
