"""Variance components: how much of the variance is due to the calibration, and how much to the search.

Sums of squares grow with the number of levels even if nothing has an effect. So a variance component is
computed for each source. In a balanced grid, it is (the mean square of the source - the part of this mean square due
to noise) / (the number of cells per level). In matrices, let Q_j be a basis of what source j adds to the sources that
do not contain it, and Z_i the indicators of source i. Then

    E[SS_j] = s_j^2 tr(Q_j' Z_j Z_j' Q_j) + sum over noise i of sigma_i^2 tr(Q_j' Z_i Z_i' Q_j),

where the noise sources i are the draw and the residual. These equations are solved for s_j^2 and sigma_i^2 (Searle,
Casella and McCulloch 1992, chapter 5). The grid need not be balanced. The estimates are unbiased, and can be negative
if the true component is zero. s_j^2 is the variance (ddof 1) of the effects over the levels in the study.

Intervals are computed as in `bootstrap`, over the draws of the calibration samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from . import bootstrap
from .bootstrap import Deviations
from .estimates import Shares, refused, report
from .gram import Matrix
from .grid import STRATUM
from .solver import Solver
from .sources import adjusted, strata


@dataclass(frozen=True)
class _Stratum:
    """One stratum: bases of the sources, and the deviations to resample."""

    bases: Mapping[str, Matrix]
    moved: Deviations

    def squares(self, x: Matrix) -> dict[str, float]:
        """The sum of squares of each source for coordinates x (n, p)."""
        return {name: float(((q.T @ x) ** 2).sum(0) @ self.moved.signs) for name, q in self.bases.items()}


def shares(
    frame: pd.DataFrame,
    grams: Sequence[Matrix],
    by: Sequence[str] = STRATUM,
    resamples: int = 999,
    seed: int = 0,
) -> Shares:
    """Variance components of one outcome. `grams` come from `variance.grams` with the same `by`."""
    strata_cells = [frame.iloc[rows] for rows in strata(frame, by)]
    moved = bootstrap.deviations(frame, grams, by)
    parts = [
        _Stratum(adjusted(cells), deviations) for cells, deviations in zip(strata_cells, moved, strict=True)
    ]
    solver = Solver([(cells, part.bases) for cells, part in zip(strata_cells, parts, strict=True)])
    draws = bootstrap.count(frame)
    if note := solver.refusal():
        return refused(len(frame), draws, note)
    estimate = solver(_sum([part.squares(part.moved.observed) for part in parts]))
    if note := bootstrap.refusal(frame):
        return report(estimate, None, solver, len(frame), draws, note)
    rng = np.random.default_rng(seed)
    drawn = np.array([solver(_sum(_resampled(parts, draws, rng))) for _ in range(resamples)])
    return report(estimate, bootstrap.plausible(estimate, drawn, draws), solver, len(frame), draws, "")


def _resampled(parts: Sequence[_Stratum], draws: int, rng: np.random.Generator) -> list[dict[str, float]]:
    weights = bootstrap.weights(draws, rng)
    return [part.squares(part.moved.resampled(weights)) for part in parts]


def _sum(squares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(s[name] for s in squares) for name in squares[0]}
