"""The paper's claim as numbers: how much of the variance is calibration, how much is search.

Sums of squares grow with the number of levels even where nothing has an effect. So each source gets a
variance component: its mean square less what the noise of the draws adds to it, per cell. In matrices, with
Q_j a basis of what source j adds to those that do not contain it, and Z_i the indicators of source i,

    E[SS_j] = s_j^2 tr(Q_j' Z_j Z_j' Q_j) + sum over noise i of sigma_i^2 tr(Q_j' Z_i Z_i' Q_j),

where noise is the draw and the residual. These equations are solved for s_j^2 and sigma_i^2 (Searle, Casella
and McCulloch 1992, chapter 5): no balance is needed, the estimates are unbiased, and they may come out below
zero where there is nothing. s_j^2 is the variance (ddof 1) of the effects of the levels that were studied.

Intervals: objectives, data, algorithms, models and ratios are the ones studied; what is random is the draw
of the calibration samples. The wild cluster bootstrap (Cameron, Gelbach and Miller 2008; weights of Webb
2014) multiplies each draw's deviations by one random weight, in all cells of that draw together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.stats import gram
from analysis.stats.estimates import Shares, refused, report
from analysis.stats.gram import Matrix
from analysis.stats.grid import DRAW, SETTING, STRATUM, indicator, labels
from analysis.stats.solver import Solver
from analysis.stats.sources import adjusted, strata

WEBB = np.sqrt([0.5, 1.0, 1.5])  # mean square 1; with both signs, six values
CLUSTERS = 6  # draws below which no interval is given


@dataclass(frozen=True)
class _Stratum:
    """One stratum: bases of the sources, coordinates (n, p) with signs, their part that draws do not change."""

    bases: Mapping[str, Matrix]
    x: Matrix
    signs: Matrix
    panel: Matrix
    deviation: Matrix
    cluster: NDArray[np.int64]

    def squares(self, x: Matrix) -> dict[str, float]:
        """The sum of squares of each source for coordinates x."""
        return {name: float(((q.T @ x) ** 2).sum(0) @ self.signs) for name, q in self.bases.items()}


def shares(
    frame: pd.DataFrame,
    grams: Sequence[Matrix],
    by: Sequence[str] = STRATUM,
    resamples: int = 999,
    seed: int = 0,
) -> Shares:
    """Variance components of one outcome. `grams` are those of `variance.grams`, by the same strata."""
    rows_of = strata(frame, by)
    cluster = labels(frame, DRAW)
    parts = [_stratum(frame.iloc[r], g, cluster[r]) for r, g in zip(rows_of, grams, strict=True)]
    solver = Solver([(frame.iloc[rows], part.bases) for rows, part in zip(rows_of, parts, strict=True)])
    draws = len(np.unique(cluster))
    if note := solver.refusal():
        return refused(len(frame), draws, note)
    found = solver(_sum([part.squares(part.x) for part in parts]))
    if note := _no_interval(frame, by, draws):
        return report(found, None, solver, len(frame), draws, note)
    rng = np.random.default_rng(seed)
    drawn = np.array([solver(_sum(_resampled(parts, draws, rng))) for _ in range(resamples)])
    # The root R* = estimate* - E*[estimate*] stands for R = estimate - truth: Hall's basic interval.
    return report(found, found - (drawn - drawn.mean(axis=0)), solver, len(frame), draws, "")


def _stratum(part: pd.DataFrame, g: Matrix, cluster: NDArray[np.int64]) -> _Stratum:
    x, signs = gram.coordinates(g)
    same = indicator(labels(part, [*SETTING[:-1], "algo"]))  # cells that differ in the draw only
    count = same.sum(0)
    panel = same @ ((same.T @ x) / count[:, None])
    # A mean of m draws leaves deviations that are too small by (m - 1) / m.
    inflate = np.sqrt(count / np.maximum(count - 1, 1)) @ same.T
    return _Stratum(adjusted(part), x, signs, panel, (x - panel) * inflate[:, None], cluster)


def _resampled(parts: Sequence[_Stratum], draws: int, rng: np.random.Generator) -> list[dict[str, float]]:
    weights = rng.choice(np.concatenate([WEBB, -WEBB]), size=draws)
    return [part.squares(part.panel + weights[part.cluster][:, None] * part.deviation) for part in parts]


def _sum(squares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(s[name] for s in squares) for name in squares[0]}


def _no_interval(frame: pd.DataFrame, by: Sequence[str], draws: int) -> str:
    """Why there is no interval; empty if there can be one."""
    repeats = frame.groupby([*by, *SETTING[:-1], "algo"], dropna=False)["draw"].nunique()
    repeated = float((repeats > 1).mean())
    if repeated < 0.5:
        return "no interval: most configurations were drawn once, so the noise of a draw is unknown"
    if draws < CLUSTERS:
        return f"no interval: {draws} draws; at least {CLUSTERS} are needed"
    return ""
