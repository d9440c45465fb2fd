"""Permutation tests of the sources of variation. Labels are exchanged only as the null hypothesis allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from . import gram
from .gram import Matrix
from .grid import Labels, indicator, labels
from .sources import Rows, VarianceSource, fitted, strata

LEAST_P = 0.05  # a test is refused if no arrangement could give a p-value this small
ENOUGH = 1e9  # upper bound for the number of arrangements

# Residuals as coordinates (n, p) and signs (p,). For numbers p is 1, so a permutation is cheap.
Coordinates = tuple[Matrix, Matrix]


def p_value(
    frame: pd.DataFrame,
    grams: Sequence[Matrix],
    source: VarianceSource,
    by: Sequence[str],
    permutations: int = 999,
    seed: int = 0,
) -> tuple[float, str]:
    """The p-value of a source and an empty note, or NaN and the reason. `grams` are in the order of `strata`."""
    rows_of = strata(frame, by)
    given = [fitted(frame.iloc[rows], source.given) for rows in rows_of]
    rests = [gram.coordinates(_residual(g, q)) for g, q in zip(grams, given, strict=True)]
    rng = np.random.default_rng(seed)
    if not source.moved:
        return _residual_test(frame, source, rows_of, given, rests, permutations, rng)
    shuffle = _Shuffle(frame, source)
    if len(np.unique(shuffle.values)) < 2:
        return float("nan"), "one level"
    if shuffle.arrangements < 1 / LEAST_P:
        return float("nan"), _too_few(round(shuffle.arrangements))

    def statistic(moved: Labels) -> float:
        parts = zip(rows_of, given, rests, strict=True)
        return sum(_explained(shuffle.levels(moved, rows), q, rest) for rows, q, rest in parts)

    draw = (statistic(shuffle.draw(rng)) for _ in range(permutations))
    return _p(statistic(shuffle.observed), draw, permutations), ""


def _too_few(arrangements: int) -> str:
    return f"too few units to exchange: {arrangements} arrangement{'s' * (arrangements != 1)}"


def _p(observed: float, null: Iterable[float], permutations: int) -> float:
    """(1 + number of null values that reach the observed one) / (1 + number drawn). It is never zero."""
    reached = sum(value >= observed - 1e-9 * abs(observed) - 1e-12 for value in null)
    return (1 + reached) / (permutations + 1)


def _residual(g: Matrix, q: Matrix) -> Matrix:
    """(I - QQ') G (I - QQ')."""
    half = g - q @ (q.T @ g)
    return np.asarray(half - (half @ q) @ q.T)


def _explained(levels: Labels, q: Matrix, rest: Coordinates) -> float:
    """Sum of squares that levels add to the basis Q, by the normal equations: tr((X'MX)^+ X'RX), M = I - QQ'."""
    x = indicator(levels)
    fit, (coordinates, signs) = q.T @ x, rest
    sums = x.T @ coordinates
    inverse = np.linalg.pinv(x.T @ x - fit.T @ fit, rcond=1e-9, hermitian=True)
    return float(np.sum(inverse * ((sums * signs) @ sums.T)))


def _along(q: Matrix, rest: Coordinates) -> float:
    """The sum of squares along the basis Q."""
    coordinates, signs = rest
    return float(((q.T @ coordinates) ** 2).sum(axis=0) @ signs)


class _Shuffle:
    """Shuffles the labels of a source over its units, within its blocks."""

    def __init__(self, frame: pd.DataFrame, source: VarianceSource) -> None:
        self.unit = labels(frame, source.units)
        _, first = np.unique(self.unit, return_index=True)
        self.values = labels(frame, [source.moved])[first]
        block = labels(frame, source.blocks)[first]
        self.blocks = [np.flatnonzero(block == level) for level in np.unique(block)]
        self.parents = labels(frame, [c for c in source.columns if c != source.moved])
        self.observed = self.values

    def draw(self, rng: np.random.Generator) -> Labels:
        """Labels of the units, shuffled within blocks."""
        moved = self.values.copy()
        for block in self.blocks:
            moved[block] = rng.permutation(moved[block])
        return moved

    def levels(self, moved: Labels, rows: Rows) -> Labels:
        """The levels of the source in `rows`, given shuffled labels of the units."""
        return self.parents[rows] * (int(self.values.max()) + 1) + moved[self.unit[rows]]

    @property
    def arrangements(self) -> float:
        """An upper bound for the number of distinct values of the statistic, which ignores the names of levels."""
        total = 0.0
        for block in self.blocks:
            _, sizes = np.unique(self.values[block], return_counts=True)
            total += math.lgamma(len(block) + 1) - sum(math.lgamma(size + 1) for size in sizes)
        _, sizes = np.unique(self.values, return_counts=True)
        alike = np.unique(sizes, return_counts=True)[1]
        total -= sum(math.lgamma(count + 1) for count in alike)
        return min(ENOUGH, round(math.exp(min(total, 30.0)), 6))


def _residual_test(
    frame: pd.DataFrame,
    source: VarianceSource,
    rows_of: Sequence[Rows],
    given: Sequence[NDArray[np.float64]],
    rests: Sequence[Coordinates],
    permutations: int,
    rng: np.random.Generator,
) -> tuple[float, str]:
    """Permute residuals of the reduced model within strata (Freedman and Lane 1983). The p-value is approximate."""
    parts = zip(rows_of, given, strict=True)
    bases = [gram.basis(indicator(labels(frame.iloc[rows], source.columns)), q) for rows, q in parts]
    df = sum(b.shape[1] for b in bases)
    left = sum(len(rows) - q.shape[1] for rows, q in zip(rows_of, given, strict=True)) - df
    if df == 0:
        return float("nan"), "one level"
    if left < 1:
        return float("nan"), "no cells left over to test it against"

    total = sum(float((x**2).sum(axis=0) @ signs) for x, signs in rests)

    def statistic(orders: Sequence[Rows]) -> float:
        moved = [(x[o], signs) for (x, signs), o in zip(rests, orders, strict=True)]
        ss = sum(_along(b, m) for b, m in zip(bases, moved, strict=True))
        # Permuted residuals are no longer orthogonal to the given columns; only the orthogonal part is noise.
        kept = total - sum(_along(q, m) for q, m in zip(given, moved, strict=True))
        return ss / max(kept - ss, 1e-12)

    draw = (statistic([rng.permutation(len(rows)) for rows in rows_of]) for _ in range(permutations))
    return _p(statistic([np.arange(len(rows)) for rows in rows_of]), draw, permutations), ""
