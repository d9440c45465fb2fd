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

import numpy as np
import pandas as pd

from . import bootstrap
from .bootstrap import Deviations
from .coordinates import Coordinates, Matrix
from .estimates import Shares, refused, report
from .grid import STRATUM
from .solver import Solver
from .sources import adjusted, strata
from .span import Addition, Spans


def shares(
    frame: pd.DataFrame,
    of: Sequence[Coordinates],
    by: Sequence[str] = STRATUM,
    resamples: int = 999,
    seed: int = 0,
) -> Shares:
    """Variance components of one outcome. `of` comes from `variance.outcome` with the same `by`."""
    strata_cells = [frame.iloc[rows] for rows in strata(frame, by)]
    added = [adjusted(Spans(cells)) for cells in strata_cells]
    solver = Solver(list(zip(strata_cells, added, strict=True)))
    draws = bootstrap.count(frame)
    if note := solver.refusal():
        return refused(len(frame), draws, note)
    estimate = solver(
        {name: sum(a[name].squares(c) for a, c in zip(added, of, strict=True)) for name in added[0]}
    )
    if note := bootstrap.refusal(frame):
        return report(estimate, None, solver, len(frame), draws, note)
    moved = bootstrap.deviations(frame, of, by)
    drawn = solver(_resampled(moved, added, bootstrap.weights(draws, resamples, seed)))
    return report(estimate, bootstrap.plausible(estimate, drawn, draws), solver, len(frame), draws, "")


def _resampled(
    moved: Sequence[Deviations], added: Sequence[Mapping[str, Addition]], weights: Matrix
) -> dict[str, Matrix]:
    """The sums of squares (resamples,) of each source."""
    draws = weights.shape[1]
    forms = {
        name: sum(bootstrap.added_form(m, a[name], draws) for m, a in zip(moved, added, strict=True))
        for name in added[0]
    }
    return {name: bootstrap.explained(weights, np.asarray(form)) for name, form in forms.items()}
