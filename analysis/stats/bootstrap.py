"""Intervals over calibration draws, the only random factor of a study.

Objectives, data, algorithms, models and ratios are fixed. For each draw, the wild cluster bootstrap (Cameron,
Gelbach and Miller 2008; weights of Webb 2014) multiplies the deviations from the mean over draws by one random
weight. All cells of the draw have the same weight. The error of an estimate is approximated by a resample minus the
mean of all resamples (Hall's basic interval). With few draws, such intervals are too short (Cameron and Miller 2015,
section VI). So errors are multiplied by t / z. Here t is the 97.5 percent quantile of Student's distribution with
draws - 1 degrees of freedom, and z is the 97.5 percent quantile of the normal distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, stats

from .coordinates import Coordinates, Matrix
from .grid import CONFIGURATION, DRAW, STRATUM, Labels, labels
from .sources import strata
from .span import Addition, Span, spanned

WEBB = np.sqrt([0.5, 1.0, 1.5])  # each is used with both signs: six weights with mean square 1
CLUSTERS = 6  # with fewer draws, no interval is given
PANEL = [*STRATUM, *CONFIGURATION, "algo"]  # cells with equal values in these columns differ only in the draw


@dataclass(frozen=True)
class Deviations:
    """Coordinates (n, p) of one stratum: observed values, their means over draws (`panel`), and deviations.

    `deviation` is the observed values minus these means, with corrected variance. `cluster` (n,) is the draw of each
    cell.
    """

    observed: Coordinates
    panel: Matrix
    deviation: Matrix
    cluster: NDArray[np.int64]

    def resampled(self, weights: Matrix) -> Matrix:
        """Resampled coordinates (n, p). `weights` (draws,) has one number for each draw."""
        return self.panel + weights[self.cluster][:, None] * self.deviation

    def form(self, span: Span, draws: int) -> Matrix:
        """The matrix B (draws + 1, draws + 1): a span explains w'Bw of a resample, with w = (weights, 1)."""
        x = np.vstack([self.deviation, self.panel])
        column = np.concatenate([self.cluster, np.full(len(self.panel), draws)])
        return _of_levels(span, x, column, self.observed.signs, draws + 1) + _of_rest(
            span, x, column, self.observed.signs, draws + 1
        )


def _of_levels(span: Span, x: Matrix, column: Labels, signs: Matrix, columns: int) -> Matrix:
    """The part of a form that the levels of a span explain. Each row of x (2n, p) belongs to one column of it."""
    pair = np.tile(span.levels, 2) * columns + column
    distinct, which = np.unique(pair, return_inverse=True)
    sums = _summed(which.reshape(-1), len(distinct)) @ x  # for each pair of a level and a column
    level, at = np.divmod(distinct, columns)
    dimension = np.arange(x.shape[1])
    rows = level[:, None] * len(dimension) + dimension
    where = (rows.ravel(), np.repeat(at, len(dimension)))
    shape = (len(span.counts) * len(dimension), columns)
    scaled = sparse.csr_array(((sums / np.sqrt(span.counts)[level][:, None]).ravel(), where), shape=shape)
    signed = sparse.csr_array(
        ((sums * signs / np.sqrt(span.counts)[level][:, None]).ravel(), where), shape=shape
    )
    return np.asarray((scaled.T @ signed).toarray())


def _of_rest(span: Span, x: Matrix, column: Labels, signs: Matrix, columns: int) -> Matrix:
    """The part of a form that the small basis of a span explains."""
    by_column = _summed(column, columns)
    form = np.zeros((columns, columns))
    for q in span.rest.T:
        sums = by_column @ (np.tile(q, 2)[:, None] * x)
        form += (sums * signs) @ sums.T
    return form


def _summed(which: Labels, groups: int) -> Any:
    """A matrix (groups, n) that sums the rows of each group."""
    n = len(which)
    return sparse.csr_array((np.ones(n), (which, np.arange(n))), shape=(groups, n))


def added_form(moved: Deviations, added: Addition, draws: int) -> Matrix:
    """The form of what a source adds."""
    return moved.form(added.span, draws) - moved.form(added.after, draws)


def explained(weights: Matrix, form: Matrix) -> Matrix:
    """W'Bw (resamples,) for weights (resamples, draws)."""
    w = np.column_stack([weights, np.ones(len(weights))])
    return np.asarray(((w @ form) * w).sum(axis=1))


def deviations(frame: pd.DataFrame, of: Sequence[Coordinates], by: Sequence[str]) -> list[Deviations]:
    """The deviations of each stratum, in the order of `strata`.

    In `cluster`, a draw has the same index in all strata.
    """
    cluster = labels(frame, DRAW)
    return [
        _deviations(frame.iloc[rows], c, cluster[rows]) for rows, c in zip(strata(frame, by), of, strict=True)
    ]


def _deviations(part: pd.DataFrame, of: Coordinates, cluster: NDArray[np.int64]) -> Deviations:
    same = spanned([labels(part, PANEL)])
    panel = same.fit(of.x)
    count = same.counts[same.levels]
    # Correct the variance of deviations from a mean of m draws: it is too small by the factor (m - 1) / m.
    inflate = np.sqrt(count / np.maximum(count - 1, 1))
    return Deviations(of, panel, (of.x - panel) * inflate[:, None], cluster)


def weights(draws: int, resamples: int, seed: int) -> Matrix:
    """One random weight (resamples, draws) for each draw in each resample."""
    return np.random.default_rng(seed).choice(np.concatenate([WEBB, -WEBB]), size=(resamples, draws))


def plausible(estimate: Matrix, drawn: Matrix, draws: int) -> Matrix:
    """Plausible true values (resamples, ...), from an estimate (...), its resamples `drawn`, and the draw count."""
    wider = stats.t.ppf(0.975, draws - 1) / stats.norm.ppf(0.975)
    return np.asarray(estimate - wider * (drawn - drawn.mean(axis=0)))


def count(frame: pd.DataFrame) -> int:
    """The number of draws."""
    return len(np.unique(labels(frame, DRAW)))


def refusal(frame: pd.DataFrame) -> str:
    """The reason why no interval can be computed; empty if an interval can be computed."""
    repeats = frame.groupby(PANEL, dropna=False)["draw"].nunique()
    if float((repeats > 1).mean()) < 0.5:
        return "no interval: most configurations were drawn once, so the noise of a draw is unknown"
    if (draws := count(frame)) < CLUSTERS:
        return f"no interval: {draws} draws; at least {CLUSTERS} are needed"
    return ""
