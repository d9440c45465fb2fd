"""Projections onto the levels of factors, in time and memory that are linear in the number of cells.

A stratum can have hundreds of settings, and a dense basis of their indicators would have a column for each. But
levels of one factor are orthogonal, and projecting onto them is taking means. So a span is kept as the levels of its
finest factor and a small basis of what the other factors add.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import linalg, sparse

from .coordinates import TOLERANCE, Coordinates, Matrix
from .grid import Labels, indicator, labels

Columns = tuple[str, ...]


@dataclass(frozen=True)
class Span:
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

    span: Span
    after: Span

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


class Spans:
    """The spans of groups of columns over the cells of a stratum. Each is computed once."""

    def __init__(self, part: pd.DataFrame) -> None:
        self._part = part
        self._known: dict[frozenset[Columns], Span] = {}

    def of(self, groups: Iterable[Sequence[str]]) -> Span:
        """The span of the mean and of the levels of each group of columns."""
        every = {tuple(group) for group in groups} | {()}
        # The levels of fewer columns are unions of levels of more columns, so they add nothing.
        finest = frozenset(g for g in every if not any(set(g) < set(other) for other in every))
        if finest not in self._known:
            self._known[finest] = spanned([labels(self._part, group) for group in sorted(finest)])
        return self._known[finest]

    @property
    def whole(self) -> Span:
        """The span that contains everything."""
        n = len(self._part)
        return Span(np.arange(n), np.zeros((n, 0)))

    def addition(self, columns: Sequence[str], given: Sequence[Sequence[str]]) -> Addition:
        """What the levels of `columns` add to the levels of `given`."""
        return Addition(self.of([*given, columns]), self.of(given))


def spanned(factors: Sequence[Labels]) -> Span:
    """The span of the levels of some factors, each (n,)."""
    numbered = [np.unique(factor, return_inverse=True)[1].astype(np.int64) for factor in factors]
    numbered.sort(key=lambda levels: -int(levels.max(initial=0)))
    span = Span(numbered[0], np.zeros((len(numbered[0]), 0)))
    for levels in numbered[1:]:
        columns = indicator(levels)
        u, sizes, _ = linalg.svd(columns - span.fit(columns), full_matrices=False)
        added = u[:, sizes > TOLERANCE * max(1.0, float(np.sqrt(len(columns))))]
        span = Span(span.levels, np.hstack([span.rest, added]))
    return span
