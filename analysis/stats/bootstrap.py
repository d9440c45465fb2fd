"""Resampled studies with new calibration draws, the only random factor of a study's design.

Objectives, data, algorithms, models and ratios are fixed. A resample keeps the means over draws (the panel) and
gives each draw a new deviation from them: a random combination, with normal weights, of the deviations of the draws
of the same data. All cells of a draw share the weights, in all strata. So the resampled deviations have the
covariance of the observed ones, whatever it is, and the mean squares of resamples vary as those of normal data with
as many draws do. Weights of two or six values, as in a wild bootstrap, would keep the squares of the deviations and
hide this variation. `plausible.py` computes intervals from the resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from .borrowing import borrowed
from .coordinates import Coordinates, Matrix
from .grid import CONFIGURATION, DRAW, STRATUM, Labels, labels, several_sizes
from .sources import strata
from .span import Addition, Span, spanned

CLUSTERS = 6  # with fewer draws, no interval is given
PANEL = [*STRATUM, *CONFIGURATION, "algo"]  # cells with equal values in these columns differ only in the draw


@dataclass(frozen=True)
class Moves:
    """What resamples of one stratum are made of. A resample is `panel` (n, p) plus random moves.

    Entry e of the moves adds weight[column[e]] * x[e] to cell row[e]; x is (entries, p). There are `columns` weights.
    """

    observed: Coordinates
    panel: Matrix
    row: Labels
    column: Labels
    x: Matrix
    columns: int

    def resampled(self, weights: Matrix) -> Matrix:
        """Resampled coordinates (n, p) for weights (columns,)."""
        moved = self.panel.copy()
        np.add.at(moved, self.row, weights[self.column][:, None] * self.x)
        return moved

    def form(self, span: Span) -> Matrix:
        """The matrix B (columns + 1, columns + 1): a span explains w'Bw of a resample, with w = (weights, 1)."""
        if self.panel.shape[1] == 1:
            along = span.along(self._matrix)
            return np.asarray(along.T @ along * self.observed.signs[0])
        x = np.vstack([self.x, self.panel])
        row = np.concatenate([self.row, np.arange(len(self.panel))])
        column = np.concatenate([self.column, np.full(len(self.panel), self.columns)])
        signs, width = self.observed.signs, self.columns + 1
        return _of_levels(span, x, row, column, signs, width) + _of_rest(span, x, row, column, signs, width)

    @cached_property
    def _matrix(self) -> Matrix:
        """For numbers: a resample is this matrix (n, columns + 1) times (weights, 1)."""
        matrix = np.zeros((len(self.panel), self.columns + 1))
        np.add.at(matrix, (self.row, self.column), self.x[:, 0])
        matrix[:, -1] = self.panel[:, 0]
        return matrix

    def added_form(self, added: Addition) -> Matrix:
        """The form of what a source adds."""
        return self.form(added.span) - self.form(added.after)


def _of_levels(span: Span, x: Matrix, row: Labels, column: Labels, signs: Matrix, columns: int) -> Matrix:
    """The part of a form that the levels of a span explain. Each row of x (e, p) belongs to a cell and a column."""
    pair = span.levels[row] * columns + column
    distinct, which = np.unique(pair, return_inverse=True)
    sums = _summed(which.reshape(-1), len(distinct)) @ x  # for each pair of a level and a column
    level, at = np.divmod(distinct, columns)
    dimension = np.arange(x.shape[1])
    rows = level[:, None] * len(dimension) + dimension
    where = (rows.ravel(), np.repeat(at, len(dimension)))
    shape = (len(span.counts) * len(dimension), columns)
    scaled = sums / np.sqrt(span.counts)[level][:, None]
    plain = sparse.csr_array((scaled.ravel(), where), shape=shape)
    signed = sparse.csr_array(((scaled * signs).ravel(), where), shape=shape)
    return np.asarray((plain.T @ signed).toarray())


def _of_rest(span: Span, x: Matrix, row: Labels, column: Labels, signs: Matrix, columns: int) -> Matrix:
    """The part of a form that the small basis of a span explains."""
    by_column = _summed(column, columns)
    form = np.zeros((columns, columns))
    for q in span.rest.T:
        sums = by_column @ (q[row][:, None] * x)
        form += (sums * signs) @ sums.T
    return form


def _summed(which: Labels, groups: int) -> Any:
    """A matrix (groups, n) that sums the rows of each group."""
    n = len(which)
    return sparse.csr_array((np.ones(n), (which, np.arange(n))), shape=(groups, n))


class Draws:
    """The draws of a study's cells, prepared once for any number of outcomes."""

    def __init__(self, frame: pd.DataFrame, by: Sequence[str]) -> None:
        self.rows = strata(frame, by)
        donors = borrowed(frame, PANEL)
        self.columns = donors.columns
        self._donors = [donors.of(rows) for rows in self.rows]
        self._panels = [spanned([labels(frame.iloc[rows], PANEL)]) for rows in self.rows]

    def moves(self, of: Sequence[Coordinates], items: Matrix | None = None) -> list[Moves]:
        """The moves of each stratum, in the order of `strata`. In all of them, a column is the same random weight.

        `items` (cells, columns), if given, are further moves: the noise of the evaluated items (`item_noise.py`).
        """
        moves = []
        for rows, c, donors, same in zip(self.rows, of, self._donors, self._panels, strict=True):
            panel = same.fit(c.x)
            x = (c.x - panel)[donors.donor] * donors.factor[:, None]
            moved = Moves(c, panel, donors.row, donors.column, x, self.columns)
            moves.append(moved if items is None else _with_items(moved, items[rows]))
        return moves


def _with_items(moves: Moves, items: Matrix) -> Moves:
    """The moves with those of items (n, columns) after them."""
    n, more = items.shape
    row = np.concatenate([moves.row, np.repeat(np.arange(n), more)])
    column = np.concatenate([moves.column, np.tile(np.arange(more), n) + moves.columns])
    x = np.vstack([moves.x, items.reshape(-1, 1)])
    return Moves(moves.observed, moves.panel, row, column, x, moves.columns + more)


def weights(columns: int, resamples: int, seed: int) -> Matrix:
    """Normal weights (resamples, columns)."""
    return np.random.default_rng(seed).normal(size=(resamples, columns))


def explained(weights: Matrix, form: Matrix) -> NDArray[np.float64]:
    """W'Bw (resamples,) for weights (resamples, columns)."""
    w = np.column_stack([weights, np.ones(len(weights))])
    return np.asarray(((w @ form) * w).sum(axis=1))


def count(frame: pd.DataFrame) -> int:
    """The number of draws."""
    return len(np.unique(labels(frame, DRAW)))


def refusal(frame: pd.DataFrame) -> str:
    """The reason why no interval can be computed; empty if an interval can be computed."""
    if reason := unknown_noise(frame):
        return f"no interval: {reason}"
    if (draws := count(frame)) < CLUSTERS:
        return f"no interval: {draws} draws; at least {CLUSTERS} are needed"
    return ""


def unknown_noise(frame: pd.DataFrame) -> str:
    """The reason why the noise of a draw cannot be estimated; empty if it can be estimated."""
    repeats = frame.groupby(PANEL, dropna=False)["draw"].nunique()
    if float((repeats > 1).mean()) < 0.5:
        return "most configurations were drawn once, so the noise of a draw is unknown"
    if several_sizes(frame):
        return "draws of several sizes contain each other; choose one with --only samples=N"
    return ""
