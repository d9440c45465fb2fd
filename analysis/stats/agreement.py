"""Do two rankings agree? Spearman, Kendall and weighted tau with permutation p-values and bootstrap intervals."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

EXACT = 8  # up to this number of pairs, all n! pairings are tried; above it, RESAMPLES random pairings
RESAMPLES = 9999
BOOTSTRAP = 2000
LEAST = 4  # the fewest pairs accepted; with three, the smallest possible two-sided p-value is 1/3
NAN = float("nan")


@dataclass(frozen=True)
class Agreement:
    """A rank correlation of n pairs, with its p-value and interval. `note` says why a value is NaN."""

    statistic: float
    p: float
    low: float
    high: float
    n: int
    exact: bool
    note: str = ""


def agree(x: ArrayLike, y: ArrayLike, method: str = "spearman", seed: int = 0) -> Agreement:
    """The rank agreement of two outcomes over the same cells. Pairs with a NaN are omitted and not counted.

    The two-sided p-value comes from permuted pairings; it is exact for up to EXACT pairs. The 95 percent interval
    comes from the percentile bootstrap over pairs; resamples in which one side is constant are omitted.
    """
    pairs = np.column_stack([np.asarray(x, float), np.asarray(y, float)])
    a, b = pairs[~np.isnan(pairs).any(axis=1)].T
    return _agree(tuple(a.tolist()), tuple(b.tolist()), method, seed)


@lru_cache(maxsize=256)
def _agree(x: tuple[float, ...], y: tuple[float, ...], method: str, seed: int) -> Agreement:
    """`agree` for pairs without NaN. The seed decides every draw, so equal arguments give equal results."""
    a, b = np.array(x), np.array(y)
    n = len(a)
    if n < LEAST:
        note = f"{n} pair{'s' * (n != 1)}; at least {LEAST} are needed"
        return Agreement(NAN, NAN, NAN, NAN, n, False, note)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return Agreement(NAN, NAN, NAN, NAN, n, False, "one of the rankings is constant")
    statistic, vectorized = STATISTICS[method]
    tested = stats.permutation_test(
        (a,),
        lambda moved, **_: statistic(moved, b),
        permutation_type="pairings",
        vectorized=vectorized,
        n_resamples=math.factorial(n) if n <= EXACT else RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    low = high = NAN
    if n > LEAST:
        drawn = np.random.default_rng(seed).integers(n, size=(BOOTSTRAP, n))
        if vectorized:
            values = statistic(a[drawn], b[drawn])
        else:
            values = [statistic(a[i], b[i]) for i in drawn if np.ptp(a[i]) and np.ptp(b[i])]
        low, high = map(float, np.nanquantile(values, [0.025, 0.975]))
    return Agreement(float(tested.statistic), float(tested.pvalue), low, high, n, n <= EXACT)


# Spearman and Kendall work on many rankings at once, which scipy's do only in a loop. The wrapper that scipy puts
# around its weighted tau takes three quarters of its time. It handles NaN and axes, and no call here has either.
_weighted_tau: Callable[..., Any] = inspect.unwrap(stats.weightedtau)


def spearman(x: NDArray[Any], y: NDArray[Any]) -> Any:
    """Pearson's correlation of the ranks, with tied ranks averaged; NaN if x or y is constant."""
    a, b = (stats.rankdata(values, axis=-1) for values in (x, y))
    a, b = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (a, b))
    return _correlation(a, b, -1)


def kendall(x: NDArray[Any], y: NDArray[Any]) -> Any:
    """Kendall's tau-b: concordant minus discordant pairs, corrected for ties."""
    a, b = (np.sign(np.expand_dims(v, -1) - np.expand_dims(v, -2)) for v in (x, y))  # (..., n, n)
    return _correlation(a, b, (-1, -2))


def _correlation(a: NDArray[Any], b: NDArray[Any], axis: int | tuple[int, int]) -> Any:
    below = np.sqrt((a**2).sum(axis=axis) * (b**2).sum(axis=axis))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=axis) / below


def weighted(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Vigna's weighted tau: exchanges among the highest values count most. The highest value has the first rank."""
    return float(_weighted_tau(x, y).statistic)


# For each method: the statistic, and whether it works on many rankings at once.
STATISTICS: dict[str, tuple[Callable[..., Any], bool]] = {
    "spearman": (spearman, True),
    "kendall": (kendall, True),
    "weighted": (weighted, False),
}


@dataclass(frozen=True)
class Concordance:
    """Kendall's W of m rankings (`raters`) of n `items`. W is 1 if all rankings agree, and about 1/m by chance."""

    w: float
    p: float
    raters: int
    items: int
    note: str = ""


def concordance(values: ArrayLike, resamples: int = 4999, seed: int = 0) -> Concordance:
    """Kendall's W of a table (raters, items), corrected for ties: Friedman's Q / (m (n - 1)).

    Rows with a NaN are omitted. The p-value comes from permuting every row, because Friedman's chi-square
    needs more rows than a panel has.
    """
    table = np.asarray(values, float)
    table = table[~np.isnan(table).any(axis=1)] if table.size else table.reshape(0, 0)
    m, n = table.shape
    if m < 2 or n < 3:
        return Concordance(NAN, NAN, m, n, f"{m} rankings of {n} items; at least 2 rankings of 3 are needed")
    if np.all(np.ptp(table, axis=1) == 0):
        return Concordance(NAN, NAN, m, n, "every rating is constant")
    q = stats.friedmanchisquare(*table.T).statistic
    ranks = stats.rankdata(table, axis=1)
    rng = np.random.default_rng(seed)
    # With fixed ties, W increases with the variance of the rank sums, so the test can compare these variances.
    null = rng.permuted(np.broadcast_to(ranks, (resamples, m, n)), axis=2).sum(axis=1).var(axis=1)
    p = (1 + np.sum(null >= np.var(ranks.sum(axis=0)) - 1e-9)) / (resamples + 1)
    return Concordance(float(q / (m * (n - 1))), float(p), m, n)


def controlled(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted by Benjamini and Hochberg. A NaN stays NaN and does not count as a test."""
    p = np.asarray(p_values, float)
    known = ~np.isnan(p)
    p[known] = stats.false_discovery_control(p[known]) if known.any() else p[known]
    return [float(value) for value in p]


# Rules that make one verdict of several results: True, False, or None if the results do not decide. The paper gives
# none, so these are ours. `paper-check` and the verdicts on a study use the same rules for the same statement.

LEVEL = 0.05  # ours: a p-value, or a q-value, of at most this is significant


def most(decided: Iterable[bool | None]) -> bool | None:
    """What more than half of all panels or cells say; None if neither side has more than half."""
    every = list(decided)
    return next((side for side in (True, False) if 2 * every.count(side) > len(every)), None)


def all_negative(correlations: Sequence[float], adjusted: Sequence[float]) -> bool | None:
    """Whether the significant correlations are negative; None if there are none, or of both signs.

    `adjusted` are p-values that control the false discovery rate.
    """
    signs = {value < 0 for value, q in zip(correlations, adjusted, strict=True) if q <= LEVEL}
    return signs.pop() if len(signs) == 1 else None
