"""Intervals over calibration draws: the one thing that is random by design.

Objectives, data, algorithms, models and ratios are the ones studied. The wild cluster bootstrap (Cameron, Gelbach
and Miller 2008; weights of Webb 2014) multiplies each draw's deviations from the mean over draws by one random
weight, in all cells of that draw together. Estimate minus mean stands for the error: Hall's basic interval. Errors
are enlarged as Student's t with one degree of freedom less than there are draws is wider than a normal, without which
the intervals of few draws are too short (Cameron and Miller 2015, section VI).
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

WEBB = np.sqrt([0.5, 1.0, 1.5])  # mean square 1; with both signs, six values
CLUSTERS = 6  # draws below which no interval is given
PANEL = [*STRATUM, *CONFIGURATION, "algo"]  # cells that are equal in these differ in the draw only


@dataclass(frozen=True)
class Deviations:
    """Coordinates (n, p) of one stratum: as observed, the mean over draws, and what each draw adds to it.

    `signs` (p,) are those of `gram.coordinates`, `cluster` (n,) is each cell's draw.
    """

    observed: Matrix
    signs: Matrix
    panel: Matrix
    deviation: Matrix
    cluster: NDArray[np.int64]

    def resampled(self, weights: Matrix) -> Matrix:
        """The coordinates as they may as well have come out; `weights` has one number for each draw."""
        return self.panel + weights[self.cluster][:, None] * self.deviation


def deviations(frame: pd.DataFrame, grams: Sequence[Matrix], by: Sequence[str]) -> list[Deviations]:
    """Those of each stratum, in the order of `strata`; draws have the same number in all of them."""
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
    # A mean of m draws leaves deviations that are too small by (m - 1) / m.
    inflate = np.sqrt(count / np.maximum(count - 1, 1)) @ same.T
    return Deviations(x, signs, panel, (x - panel) * inflate[:, None], cluster)


def weights(draws: int, rng: np.random.Generator) -> Matrix:
    """One random weight for each draw."""
    return rng.choice(np.concatenate([WEBB, -WEBB]), size=draws)


def plausible(found: Matrix, drawn: Matrix, draws: int) -> Matrix:
    """What the truth may as well be, given an estimate (...) and its resamples (resamples, ...) over some draws."""
    wider = stats.t.ppf(0.975, draws - 1) / stats.norm.ppf(0.975)
    return np.asarray(found - wider * (drawn - drawn.mean(axis=0)))


def count(frame: pd.DataFrame) -> int:
    """How many draws there are."""
    return len(np.unique(labels(frame, DRAW)))


def refusal(frame: pd.DataFrame) -> str:
    """Why there is no interval; empty if there can be one."""
    repeats = frame.groupby(PANEL, dropna=False)["draw"].nunique()
    if float((repeats > 1).mean()) < 0.5:
        return "no interval: most configurations were drawn once, so the noise of a draw is unknown"
    if (draws := count(frame)) < CLUSTERS:
        return f"no interval: {draws} draws; at least {CLUSTERS} are needed"
    return ""
