"""Outcomes as coordinates, and their projections onto the levels of factors. Numbers and masks share this algebra.

Gower's centred matrix G = -1/2 J D^2 J (J = I - 11'/n) of distances D holds the inner products of the observations
after centring. It is never computed for all pairs of cells. Instead, X (n, p) and signs s (p,) with G = X diag(s) X'
are kept. If Q is an orthonormal basis of some columns, these explain the sum of squares tr(Q'GQ) = sum over p of
s |Q'X|^2 (McArdle and Anderson 2001). For numbers, X is the deviation from the mean, and these sums of squares are
those of the ordinary analysis of variance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, sparse

from pruning.core.mask import Mask

from . import mask_overlap
from .grid import Labels, indicator, labels

Matrix = NDArray[np.float64]
TOLERANCE = 1e-8


@dataclass(frozen=True)
class Coordinates:
    """X (n, p) and signs (p,).

    Jaccard distances are not Euclidean, so a few signs can be negative. Without them, sums of squares do not add up.
    """

    x: Matrix
    signs: Matrix

    def squares(self, x: Matrix) -> float:
        """The sum of squares of vectors x (any, p) in these coordinates."""
        return float((x**2).sum(axis=0) @ self.signs)

    @property
    def total(self) -> float:
        """The sum of squares of all observations, tr(G)."""
        return self.squares(self.x)

    def take(self, rows: Labels) -> Coordinates:
        """The coordinates of some observations, in a given order."""
        return Coordinates(self.x[rows], self.signs)

    def scaled(self) -> Coordinates:
        """Scaled to a mean square of one. Observations without spread become zero."""
        spread = self.total / max(1, len(self.x) - 1)
        return Coordinates(self.x / np.sqrt(spread) if spread > 1e-12 else self.x * 0, self.signs)


def of_values(values: ArrayLike) -> Coordinates:
    """Coordinates of numbers: deviations from the mean."""
    y = np.asarray(values, float)
    return Coordinates((y - y.mean())[:, None], np.ones(1))


def of_masks(masks: Sequence[Mask]) -> Coordinates:
    """Coordinates of masks, from their Jaccard distances (1 minus the overlap)."""
    words, which = np.unique(mask_overlap.bit_words(masks), axis=0, return_inverse=True)
    shared, sizes = mask_overlap.shared_bits(words[:, None], words), mask_overlap.bit_sizes(words)
    either = sizes[:, None] + sizes - shared
    return of_distances(np.where(either > 0, 1.0 - shared / np.maximum(either, 1), 0.0), which.reshape(-1))


def of_distances(distances: ArrayLike, which: Labels | None = None) -> Coordinates:
    """Principal coordinates of points with the distances (u, u).

    If `which` (n,) is given, observation i is the point `which[i]`, and only matrices of the size u are computed: if
    E (n, u) are the indicators of the points and N = E'E, then G = E H E', and the eigenvectors of G are
    E N^-1/2 V, where V are those of N^1/2 H N^1/2.
    """
    squared = np.asarray(distances, float) ** 2
    which = np.arange(len(squared)) if which is None else which
    counts = np.bincount(which, minlength=len(squared)).astype(float)
    mean = squared @ counts / counts.sum()
    inner = -0.5 * (squared - mean - mean[:, None] + counts @ mean / counts.sum())
    root = np.sqrt(counts)
    values, vectors = linalg.eigh(inner * root * root[:, None])
    kept = np.abs(values) > TOLERANCE * np.abs(values).max(initial=1e-300)
    points = vectors[:, kept] * np.sqrt(np.abs(values[kept])) / root[:, None]
    return Coordinates(points[which], np.sign(values[kept]))


# Projections, in time and memory that are linear in the number of cells.
#
# A stratum can have hundreds of settings, and a dense basis of their indicators would have a column for each. But
# levels of one factor are orthogonal, and projecting onto them is taking means. So a span is kept as the levels of
# its finest factor and a small basis of what the other factors add.


@dataclass(frozen=True)
class Subspace:
    """The span of the indicators of `levels` (n,), numbered from 0 without gaps, and of an orthonormal basis `rest`.

    `rest` (n, r) is orthogonal to the indicators.
    """

    levels: Labels
    rest: Matrix

    @cached_property
    def counts(self) -> Matrix:
        """The number of rows of each level."""
        return np.bincount(self.levels).astype(float)

    @property
    def df(self) -> int:
        """The dimension."""
        return len(self.counts) + int(self.rest.shape[1])

    @cached_property
    def _basis(self) -> Any:
        """The normalised indicators, transposed (levels, n)."""
        n = len(self.levels)
        data = 1 / np.sqrt(self.counts)[self.levels]
        return sparse.csr_array((data, (self.levels, np.arange(n))), shape=(len(self.counts), n))

    def along(self, x: Matrix) -> Matrix:
        """The coefficients (df, p) of x (n, p) in an orthonormal basis of the span."""
        return np.vstack([self._basis @ x, self.rest.T @ x])

    def along_indicators(self, x: Any) -> Matrix:
        """The coefficients (m, df) of the rows of a sparse matrix x (m, n)."""
        return np.hstack([(x @ self._basis.T).toarray(), x @ self.rest])

    def fit(self, x: Matrix) -> Matrix:
        """The projection (n, p) of x (n, p)."""
        return np.asarray(self._basis.T @ (self._basis @ x) + self.rest @ (self.rest.T @ x))


@dataclass(frozen=True)
class Addition:
    """What a span adds to a smaller one that it contains: a source of variation."""

    span: Subspace
    after: Subspace

    @property
    def df(self) -> int:
        """Degrees of freedom."""
        return self.span.df - self.after.df

    def fit(self, x: Matrix) -> Matrix:
        """The projection (n, p) of x (n, p) onto what is added."""
        return self.span.fit(x) - self.after.fit(x)

    def squares(self, of: Coordinates) -> float:
        """The sum of squares that is explained."""
        return of.squares(self.fit(of.x))


class Subspaces:
    """The subspaces of groups of columns over the cells of a stratum. Each is computed once."""

    def __init__(self, part: pd.DataFrame) -> None:
        self._part = part
        self._known: dict[frozenset[tuple[str, ...]], Subspace] = {}

    def of(self, groups: Iterable[Sequence[str]]) -> Subspace:
        """The span of the mean and of the levels of each group of columns."""
        every = {tuple(group) for group in groups} | {()}
        # The levels of fewer columns are unions of levels of more columns, so they add nothing.
        finest = frozenset(g for g in every if not any(set(g) < set(other) for other in every))
        if finest not in self._known:
            self._known[finest] = spanned([labels(self._part, group) for group in sorted(finest)])
        return self._known[finest]

    @property
    def whole(self) -> Subspace:
        """The span that contains everything."""
        n = len(self._part)
        return Subspace(np.arange(n), np.zeros((n, 0)))

    def addition(self, columns: Sequence[str], given: Sequence[Sequence[str]]) -> Addition:
        """What the levels of `columns` add to the levels of `given`."""
        return Addition(self.of([*given, columns]), self.of(given))


def spanned(factors: Sequence[Labels]) -> Subspace:
    """The span of the levels of some factors, each (n,)."""
    numbered = [np.unique(factor, return_inverse=True)[1].astype(np.int64) for factor in factors]
    numbered.sort(key=lambda levels: -int(levels.max(initial=0)))
    span = Subspace(numbered[0], np.zeros((len(numbered[0]), 0)))
    for levels in numbered[1:]:
        columns = indicator(levels)
        u, sizes, _ = linalg.svd(columns - span.fit(columns), full_matrices=False)
        added = u[:, sizes > TOLERANCE * max(1.0, float(np.sqrt(len(columns))))]
        span = Subspace(span.levels, np.hstack([span.rest, added]))
    return span
