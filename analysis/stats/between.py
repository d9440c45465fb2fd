"""How outcomes differ across models and ratios: shares of the sum of squares, with intervals and p-values.

Model and ratio are crossed with all other factors. So the test of model exchanges the labels of models among cells
that have equal values of all other factors, and the test of ratio exchanges the labels of ratios in the same way. For
interactions, residuals are permuted. Intervals are computed as in `bootstrap`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from . import bootstrap, gram, permute
from .bootstrap import Deviations
from .gram import Matrix
from .grid import SETTING, STRATUM, indicator, labels
from .sources import VarianceSource, fitted, strata
from .variance import grams, squares

_OTHERS, _REST = tuple(SETTING), (*SETTING, "algo")
BETWEEN = (
    VarianceSource("model", ("model",), (("ratio",), _REST), "model", (*STRATUM, *_REST), ("ratio", *_REST)),
    VarianceSource("ratio", ("ratio",), (("model",), _REST), "ratio", (*STRATUM, *_REST), ("model", *_REST)),
    VarianceSource("model x ratio", ("model", "ratio"), (("model",), ("ratio",), _REST)),
    VarianceSource("model x objective", ("model", "objective"), (("model", "ratio"), _OTHERS, ("algo",))),
    VarianceSource("model x algorithm", ("model", "algo"), (("model", "ratio"), _OTHERS, ("algo",))),
    VarianceSource("ratio x objective", ("ratio", "objective"), (("model", "ratio"), _OTHERS, ("algo",))),
    VarianceSource("ratio x algorithm", ("ratio", "algo"), (("model", "ratio"), _OTHERS, ("algo",))),
)


def between(
    frame: pd.DataFrame,
    values: ArrayLike | None,
    by: Sequence[str] = (),
    permutations: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """How much an outcome depends on model, on ratio, and on their interactions with objective and algorithm.

    `values` are numbers, or None for masks. Each source is adjusted for the columns in its `given`. `share` is
    the source's part of the sum of squares over all cells. If there are enough draws, it has an interval. If `by`
    is given, everything is measured within the levels of these columns.
    """
    of = grams(frame, values, by)
    parts = [frame.iloc[rows] for rows in strata(frame, by)]
    bases = [
        [gram.basis(indicator(labels(p, source.columns)), fitted(p, source.given)) for p in parts]
        for source in BETWEEN
    ]
    total = sum(float(np.trace(g)) for g in of)
    sums = [squares(of, source_bases) for source_bases in bases]
    shares = np.array([ss for ss, _ in sums]) / total if total else np.full(len(bases), np.nan)
    if bootstrap.refusal(frame):
        intervals = [(np.nan, np.nan)] * len(bases)
    else:
        moved = bootstrap.deviations(frame, of, by)
        intervals = _intervals(moved, bases, shares, bootstrap.count(frame), permutations, seed)
    rows = []
    for source, (ss, df), share, ends in zip(BETWEEN, sums, shares, intervals, strict=True):
        p, note = permute.p_value(frame, of, source, by, permutations, seed) if df else (np.nan, "one level")
        shown = [share, *ends] if total and df else [np.nan] * 3
        rows.append([source.name, df, ss, *shown, p, note])
    return pd.DataFrame(rows, columns=["source", "df", "ss", "share", "low", "high", "p", "note"])


def _intervals(
    moved: Sequence[Deviations],
    bases: Sequence[Sequence[Matrix]],
    shares: Matrix,
    draws: int,
    resamples: int,
    seed: int,
) -> list[tuple[float, float]]:
    """95 percent intervals of the share of each source, from resampled draws."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        weights = bootstrap.weights(draws, rng)
        drawn.append(_shares_of([stratum.resampled(weights) for stratum in moved], moved, bases))
    low, high = np.quantile(bootstrap.plausible(shares, np.array(drawn), draws), [0.025, 0.975], axis=0)
    return list(zip(np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0), strict=True))


def _shares_of(
    coordinates: Sequence[Matrix], moved: Sequence[Deviations], bases: Sequence[Sequence[Matrix]]
) -> Matrix:
    """For each source, the share (sources,) of the sum of squares that its bases explain."""

    def summed(vectors: Sequence[Matrix]) -> float:
        return sum(float((x**2).sum(0) @ stratum.signs) for x, stratum in zip(vectors, moved, strict=True))

    total = summed([x - x.mean(0) for x in coordinates])
    explained = [
        summed([q.T @ x for q, x in zip(source_bases, coordinates, strict=True)]) for source_bases in bases
    ]
    return np.array(explained) / total if total else np.full(len(bases), np.nan)
