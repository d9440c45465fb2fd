"""How outcomes differ across models and ratios: shares of the sum of squares, with intervals and p-values.

Model and ratio are crossed with all other factors. So the test of model exchanges the labels of models among cells
that have equal values of all other factors, and the test of ratio exchanges the labels of ratios in the same way. For
interactions, residuals are permuted. Intervals use the resamples of `bootstrap`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from . import bootstrap, permute
from .bootstrap import Moves
from .coordinates import Matrix
from .grid import SETTING, STRATUM
from .sources import VarianceSource, strata
from .span import Addition, Spans
from .variance import outcome, squares

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
    of = outcome(frame, values, by)
    parts = [Spans(frame.iloc[rows]) for rows in strata(frame, by)]
    added = [[part.addition(source.columns, source.given) for part in parts] for source in BETWEEN]
    total = sum(c.total for c in of)
    sums = [squares(of, source_added) for source_added in added]
    shares = np.array([ss for ss, _ in sums]) / total if total else np.full(len(added), np.nan)
    if bootstrap.refusal(frame):
        intervals = [(np.nan, np.nan)] * len(added)
    else:
        moved = bootstrap.Draws(frame, by).moves(of)
        whole = [Addition(part.whole, part.of(())) for part in parts]
        drawn = _shares(moved, added, whole, bootstrap.weights(moved[0].columns, permutations, seed))
        intervals = _intervals(shares, drawn, bootstrap.count(frame))
    rows = []
    for source, (ss, df), share, ends in zip(BETWEEN, sums, shares, intervals, strict=True):
        p, note = permute.p_value(frame, of, source, by, permutations, seed) if df else (np.nan, "one level")
        shown = [share, *ends] if total and df else [np.nan] * 3
        rows.append([source.name, df, ss, *shown, p, note])
    return pd.DataFrame(rows, columns=["source", "df", "ss", "share", "low", "high", "p", "note"])


def _intervals(shares: Matrix, drawn: Matrix, draws: int) -> list[tuple[float, float]]:
    """95 percent intervals of the share of each source, from resampled shares (resamples, sources).

    The error of a share is taken to be a resample minus the mean of all resamples (Hall's basic interval). It is
    multiplied by t / z, because few draws give intervals that are too short (Cameron and Miller 2015, section VI): t
    and z are the 97.5 percent quantiles of Student's distribution with draws - 1 degrees of freedom and the normal.
    """
    wider = stats.t.ppf(0.975, draws - 1) / stats.norm.ppf(0.975)
    likely = shares - wider * (drawn - drawn.mean(axis=0))
    low, high = np.quantile(likely, [0.025, 0.975], axis=0)
    return list(zip(np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0), strict=True))


def _shares(
    moved: Sequence[Moves],
    added: Sequence[Sequence[Addition]],
    whole: Sequence[Addition],
    weights: Matrix,
) -> Matrix:
    """The shares (resamples, sources) of the sum of squares that the sources explain in resamples."""

    def summed(parts: Sequence[Addition]) -> Matrix:
        forms = [m.added_form(a) for m, a in zip(moved, parts, strict=True)]
        return bootstrap.explained(weights, np.sum(forms, axis=0))

    total = summed(whole)
    explained = np.column_stack([summed(source_added) for source_added in added])
    return np.where(total[:, None] != 0, explained / np.where(total == 0, 1.0, total)[:, None], np.nan)
