"""Permutation tests of the sources of variation. Labels are exchanged only as the null hypothesis allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from . import gram
from .gram import Matrix
from .grid import Labels, indicator, labels
from .sources import Rows, VarianceSource, fitted, strata

LEAST_P = 0.05  # a test is refused if no arrangement could give a p-value this small
ENOUGH = 1e9  # larger numbers of arrangements are reported as this number
CHUNK = 2_000_000  # numbers in the largest array of a test: 16 MB

# Residuals as coordinates (n, p) and signs (p,). If the outcome is a number, p is 1 and a permutation is fast.
Coordinates = tuple[Matrix, Matrix]


@dataclass(frozen=True)
class _Exchange:
    """The cells of a stratum: their rows, a basis of the columns fitted first, and the residuals of this fit."""

    rows: Rows
    given: NDArray[np.float64]
    rest: Coordinates


def p_value(
    frame: pd.DataFrame,
    grams: Sequence[Matrix],
    source: VarianceSource,
    by: Sequence[str],
    permutations: int = 999,
    seed: int = 0,
) -> tuple[float, str]:
    """A pair: the p-value and an empty note, or NaN and the reason for it. `grams` are in the order of `strata`."""
    parts: list[_Exchange] = []
    for rows, matrix in zip(strata(frame, by), grams, strict=True):
        given = fitted(frame.iloc[rows], source.given)
        parts.append(_Exchange(rows, given, gram.coordinates(_residual(matrix, given))))
    rng = np.random.default_rng(seed)
    if not source.moved:
        return _residual_test(frame, source, parts, permutations, rng)
    shuffle = _Shuffle(frame, source)
    if len(np.unique(shuffle.values)) < 2:
        return float("nan"), "one level"
    if shuffle.arrangements < 1 / LEAST_P:
        return float("nan"), _too_few(round(shuffle.arrangements))

    moved = np.vstack([shuffle.values, shuffle.draws(rng, permutations)])
    sums = sum(_explained(shuffle.levels(moved, part.rows), part.given, part.rest) for part in parts)
    observed, *null = np.asarray(sums).tolist()
    return _p(observed, null, permutations), ""


def _too_few(arrangements: int) -> str:
    return f"too few units to exchange: {arrangements} arrangement{'s' * (arrangements != 1)}"


def _p(observed: float, null: Iterable[float], permutations: int) -> float:
    """(1 + number of null values that reach the observed one) / (1 + permutations). This p-value is never zero."""
    reached = sum(value >= observed - 1e-9 * abs(observed) - 1e-12 for value in null)
    return (1 + reached) / (permutations + 1)


def _residual(g: Matrix, q: Matrix) -> Matrix:
    """(I - QQ') G (I - QQ')."""
    half = g - q @ (q.T @ g)
    return np.asarray(half - (half @ q) @ q.T)


def _explained(levels: Labels, q: Matrix, rest: Coordinates) -> NDArray[np.float64]:
    """Sums of squares (draws,) that `levels` (draws, n) add to the basis Q, by the normal equations.

    They are tr((X'MX)^+ X'RX) with M = I - QQ'. X holds the indicators of the levels of one draw; R is the residual
    matrix with the coordinates and signs `rest`. A level that a draw lacks is a column of zeros and adds nothing.
    """
    distinct, codes = np.unique(levels, return_inverse=True)
    codes = codes.reshape(levels.shape)
    at_once = max(1, CHUNK // (len(distinct) * levels.shape[1]))
    chunks = [codes[i : i + at_once] for i in range(0, len(codes), at_once)]
    return np.concatenate([_explained_at_once(chunk, len(distinct), q, rest) for chunk in chunks])


def _explained_at_once(codes: Labels, n_levels: int, q: Matrix, rest: Coordinates) -> NDArray[np.float64]:
    """`_explained` of some draws, whose levels are 0 to `n_levels` - 1."""
    coordinates, signs = rest
    x = (codes[..., None] == np.arange(n_levels)).astype(float)  # (draws, n, levels)
    fit, sums = q.T @ x, x.transpose(0, 2, 1) @ coordinates
    counts = x.sum(axis=1)[:, :, None] * np.eye(n_levels)
    inverse = np.linalg.pinv(counts - fit.transpose(0, 2, 1) @ fit, rcond=1e-9, hermitian=True)
    return np.asarray((inverse * ((sums * signs) @ sums.transpose(0, 2, 1))).sum(axis=(1, 2)))


def _along(q: Matrix, rest: Coordinates) -> float:
    """The sum of squares along the basis Q."""
    coordinates, signs = rest
    return float(((q.T @ coordinates) ** 2).sum(axis=0) @ signs)


class _Shuffle:
    """Shuffles the labels of a source among units of the same block."""

    def __init__(self, frame: pd.DataFrame, source: VarianceSource) -> None:
        self.unit = labels(frame, source.units)
        _, first = np.unique(self.unit, return_index=True)
        self.values = labels(frame, [source.moved])[first]
        block = labels(frame, source.blocks)[first]
        self.blocks = [np.flatnonzero(block == level) for level in np.unique(block)]
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


def _residual_test(
    frame: pd.DataFrame,
    source: VarianceSource,
    parts: Sequence[_Exchange],
    permutations: int,
    rng: np.random.Generator,
) -> tuple[float, str]:
    """Permute residuals of the reduced model within strata (Freedman and Lane 1983). The p-value is approximate."""
    bases = [gram.basis(indicator(labels(frame.iloc[p.rows], source.columns)), p.given) for p in parts]
    df = sum(b.shape[1] for b in bases)
    left = sum(len(part.rows) - part.given.shape[1] for part in parts) - df
    if df == 0:
        return float("nan"), "one level"
    if left < 1:
        return float("nan"), "no cells left over to test it against"

    total = sum(float((x**2).sum(axis=0) @ signs) for x, signs in (part.rest for part in parts))

    def statistic(orders: Sequence[Rows]) -> float:
        moved = [(part.rest[0][o], part.rest[1]) for part, o in zip(parts, orders, strict=True)]
        ss = sum(_along(b, m) for b, m in zip(bases, moved, strict=True))
        # Permuted residuals are no longer orthogonal to the given columns, so the part along these is subtracted.
        kept = total - sum(_along(part.given, m) for part, m in zip(parts, moved, strict=True))
        return ss / max(kept - ss, 1e-12)

    draw = (statistic([rng.permutation(len(part.rows)) for part in parts]) for _ in range(permutations))
    return _p(statistic([np.arange(len(part.rows)) for part in parts]), draw, permutations), ""
