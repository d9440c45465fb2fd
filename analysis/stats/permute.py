"""Permutation tests of the sources of variation. Labels are exchanged only as the null hypothesis allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from . import pairing
from .coordinates import Coordinates, Matrix
from .grid import Labels, labels
from .shuffle import Shuffle
from .sources import Rows, VarianceSource, strata
from .span import Span, Spans

LEAST_P = 0.05  # a test is refused if no arrangement could give a p-value this small
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
    shuffle = Shuffle(frame, source)
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
    at_once = max(1, CHUNK // (len(distinct) * (given.df + len(rest.signs)) + levels.shape[1]))
    chunks = [codes[i : i + at_once] for i in range(0, len(codes), at_once)]
    return np.concatenate([_explained_at_once(chunk, len(distinct), given, rest) for chunk in chunks])


def _explained_at_once(codes: Labels, n_levels: int, given: Span, rest: Coordinates) -> NDArray[np.float64]:
    """`_explained` of some draws, whose levels are 0 to `n_levels` - 1."""
    draws, n = codes.shape
    row = (codes + n_levels * np.arange(draws)[:, None]).ravel()
    x = sparse.csr_array(
        (np.ones(len(row)), (row, np.tile(np.arange(n), draws))), shape=(draws * n_levels, n)
    )
    fit = given.along_indicators(x).reshape(draws, n_levels, -1)
    sums = (x @ rest.x).reshape(draws, n_levels, -1)
    counts = x.sum(axis=1).reshape(draws, n_levels, 1)
    if n_levels > given.df:
        return _levels_first(fit, sums, counts, rest.signs)
    inverse = _pinv(counts * np.eye(n_levels) - fit @ fit.transpose(0, 2, 1))
    return np.asarray(((inverse @ sums) * sums * rest.signs).sum(axis=(1, 2)))


def _levels_first(fit: Matrix, sums: Matrix, counts: Matrix, signs: Matrix) -> NDArray[np.float64]:
    """The same sums of squares if there are more levels than given columns.

    The levels are orthogonal, so they are fitted first. What the given columns add to them is the rest of the sum of
    squares of both together, and the given columns alone explain nothing of residuals.
    """
    root = np.sqrt(np.maximum(counts, 1))
    fit, sums = fit / root, sums / root
    along = fit.transpose(0, 2, 1) @ sums
    values, vectors = np.linalg.eigh(np.eye(fit.shape[2]) - fit.transpose(0, 2, 1) @ fit)
    along = vectors.transpose(0, 2, 1) @ along
    weight = np.where(values > 1e-9, 1 / np.maximum(values, 1e-9), 0.0)[:, :, None]
    return np.asarray((sums**2 @ signs).sum(axis=1) + (weight * along**2 @ signs).sum(axis=1))


def _pinv(matrices: Matrix) -> Matrix:
    """Pseudo-inverses of symmetric matrices (draws, m, m). In a complete grid, all draws have the same one."""
    distinct = matrices[:1] if (matrices == matrices[0]).all() else matrices
    return np.asarray(np.linalg.pinv(distinct, rcond=1e-9, hermitian=True))


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
