"""Permutation tests of the sources of variation. Labels are exchanged only as the null hypothesis allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from . import pairing
from .coordinates import Coordinates, Matrix
from .grid import Labels, labels
from .sources import Rows, VarianceSource, strata
from .span import Span, Spans

LEAST_P = 0.05  # a test is refused if no arrangement could give a p-value this small
ENOUGH = 1e9  # larger numbers of arrangements are reported as this number
CHUNK = 2_000_000  # numbers in the largest array of a test: 16 MB


@dataclass(frozen=True)
class Exchange:
    """Cells whose sums of squares are computed together: their rows, what is fitted first, and the residuals."""

    rows: Rows
    spans: Spans
    given: Span
    rest: Coordinates


def p_value(
    frame: pd.DataFrame,
    of: Sequence[Coordinates],
    source: VarianceSource,
    by: Sequence[str],
    permutations: int = 999,
    seed: int = 0,
) -> tuple[float, str]:
    """A pair: the p-value and an empty note, or NaN and the reason for it. `of` is in the order of `strata`."""
    parts = exchanges(frame, of, source, by)
    rng = np.random.default_rng(seed)
    if not source.moved:
        return _residual_test(source, parts, permutations, rng)
    shuffle = _Shuffle(frame, source)
    if len(np.unique(shuffle.values)) < 2:
        return float("nan"), "one level"
    if shuffle.arrangements < 1 / LEAST_P:
        return float("nan"), _too_few(round(shuffle.arrangements))

    moved = np.vstack([shuffle.values, shuffle.draws(rng, permutations)])
    sums = sum(_explained(shuffle.levels(moved, part.rows), part.given, part.rest) for part in parts)
    observed, *null = np.asarray(sums).tolist()
    return _p(observed, null, permutations), ""


def exchanges(
    frame: pd.DataFrame, of: Sequence[Coordinates], source: VarianceSource, by: Sequence[str]
) -> list[Exchange]:
    """The parts of each stratum whose sums of squares can be computed apart."""
    parts: list[Exchange] = []
    for stratum, whole in zip(strata(frame, by), of, strict=True):
        for part in pairing.members(labels(frame.iloc[stratum], source.apart)):
            spans, coordinates = Spans(frame.iloc[stratum[part]]), whole.take(part)
            given = spans.of(source.given)
            rest = Coordinates(coordinates.x - given.fit(coordinates.x), coordinates.signs)
            parts.append(Exchange(stratum[part], spans, given, rest))
    return parts


def _too_few(arrangements: int) -> str:
    return f"too few units to exchange: {arrangements} arrangement{'s' * (arrangements != 1)}"


def _p(observed: float, null: Iterable[float], permutations: int) -> float:
    """(1 + number of null values that reach the observed one) / (1 + permutations). This p-value is never zero."""
    reached = sum(value >= observed - 1e-9 * abs(observed) - 1e-12 for value in null)
    return (1 + reached) / (permutations + 1)


def _explained(levels: Labels, given: Span, rest: Coordinates) -> NDArray[np.float64]:
    """Sums of squares (draws,) that `levels` (draws, n) add to the span `given`, by the normal equations.

    They are tr((X'MX)^+ X'RX) with M = I - QQ'. X holds the indicators of the levels of one draw; R is the residual
    matrix with the coordinates `rest`; Q is a basis of `given`. A level that a draw lacks is a column of zeros and
    adds nothing.
    """
    distinct, codes = np.unique(levels, return_inverse=True)
    codes = codes.reshape(levels.shape)
    at_once = max(1, CHUNK // (len(distinct) * levels.shape[1]))
    chunks = [codes[i : i + at_once] for i in range(0, len(codes), at_once)]
    return np.concatenate([_explained_at_once(chunk, len(distinct), given, rest) for chunk in chunks])


def _explained_at_once(codes: Labels, n_levels: int, given: Span, rest: Coordinates) -> NDArray[np.float64]:
    """`_explained` of some draws, whose levels are 0 to `n_levels` - 1."""
    draws, n = codes.shape
    x = (codes.T[..., None] == np.arange(n_levels)).astype(float).reshape(n, draws * n_levels)

    def by_draw(products: Matrix) -> Matrix:
        """From (any, draws * levels) to (draws, levels, any)."""
        return np.ascontiguousarray(products.reshape(-1, draws, n_levels).transpose(1, 2, 0))

    fit, sums = by_draw(given.along(x)), by_draw(rest.x.T @ x)
    counts = x.sum(axis=0).reshape(draws, n_levels)[:, :, None] * np.eye(n_levels)
    inverse = _pinv(counts - fit @ fit.transpose(0, 2, 1))
    return np.asarray(((inverse @ sums) * sums * rest.signs).sum(axis=(1, 2)))


def _pinv(matrices: Matrix) -> Matrix:
    """Pseudo-inverses of symmetric matrices (draws, m, m). In a complete grid, all draws have the same one."""
    distinct = matrices[:1] if (matrices == matrices[0]).all() else matrices
    return np.asarray(np.linalg.pinv(distinct, rcond=1e-9, hermitian=True))


class _Shuffle:
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


def _residual_test(
    source: VarianceSource, parts: Sequence[Exchange], permutations: int, rng: np.random.Generator
) -> tuple[float, str]:
    """Permute residuals of the reduced model within strata (Freedman and Lane 1983). The p-value is approximate."""
    added = [part.spans.addition(source.columns, source.given) for part in parts]
    df = sum(a.df for a in added)
    left = sum(len(part.rows) - part.given.df for part in parts) - df
    if df == 0:
        return float("nan"), "one level"
    if left < 1:
        return float("nan"), "no cells left over to test it against"
    total = sum(part.rest.total for part in parts)

    def statistic(orders: Sequence[Rows]) -> float:
        moved = [part.rest.take(order) for part, order in zip(parts, orders, strict=True)]
        # Permuted residuals are no longer orthogonal to the given columns, so the part along these is subtracted.
        before = sum(m.squares(part.given.along(m.x)) for part, m in zip(parts, moved, strict=True))
        ss = sum(m.squares(a.span.along(m.x)) for a, m in zip(added, moved, strict=True)) - before
        return ss / max(total - before - ss, 1e-12)

    draw = (statistic([rng.permutation(len(part.rows)) for part in parts]) for _ in range(permutations))
    return _p(statistic([np.arange(len(part.rows)) for part in parts]), draw, permutations), ""
