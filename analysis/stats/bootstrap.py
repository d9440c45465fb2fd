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

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from . import gram
from .gram import Matrix
from .grid import CONFIGURATION, DRAW, STRATUM, indicator, labels
from .sources import strata

WEBB = np.sqrt([0.5, 1.0, 1.5])  # each is used with both signs: six weights with mean square 1
CLUSTERS = 6  # with fewer draws, no interval is given
PANEL = [*STRATUM, *CONFIGURATION, "algo"]  # cells with equal values in these columns differ only in the draw


@dataclass(frozen=True)
class Deviations:
    """Coordinates (n, p) of one stratum: observed values, their means over draws (`panel`), and deviations.

    `deviation` is the observed values minus these means, with corrected variance. `signs` (p,) are the signs that
    `gram.coordinates` returns. `cluster` (n,) is the draw of each cell.
    """

    observed: Matrix
    signs: Matrix
    panel: Matrix
    deviation: Matrix
    cluster: NDArray[np.int64]

    def resampled(self, weights: Matrix) -> Matrix:
        """Resampled coordinates (n, p). `weights` (draws,) has one number for each draw."""
        return self.panel + weights[self.cluster][:, None] * self.deviation


def deviations(frame: pd.DataFrame, grams: Sequence[Matrix], by: Sequence[str]) -> list[Deviations]:
    """The deviations of each stratum, in the order of `strata`.

    In `cluster`, a draw has the same index in all strata.
    """
    cluster = labels(frame, DRAW)
    return [
        _deviations(frame.iloc[rows], g, cluster[rows])
        for rows, g in zip(strata(frame, by), grams, strict=True)
    ]


def _deviations(part: pd.DataFrame, g: Matrix, cluster: NDArray[np.int64]) -> Deviations:
    x, signs = gram.coordinates(g)
    same = indicator(labels(part, PANEL))
    count = same.sum(0)
    panel = same @ ((same.T @ x) / count[:, None])
    # Correct the variance of deviations from a mean of m draws: it is too small by the factor (m - 1) / m.
    inflate = np.sqrt(count / np.maximum(count - 1, 1)) @ same.T
    return Deviations(x, signs, panel, (x - panel) * inflate[:, None], cluster)


def weights(draws: int, rng: np.random.Generator) -> Matrix:
    """One random weight for each draw."""
    return rng.choice(np.concatenate([WEBB, -WEBB]), size=draws)


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
