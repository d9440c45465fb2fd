"""Variance components: how much of the variance is due to the calibration, and how much to the search.

`solver.py` computes the components of each stratum (one model and one k; for losses also one objective),
`plausible.py` their plausible true values, and `estimates.py` the shares: in each stratum a component is divided by
the sum of all, and shares are averaged over strata. So the unit of the outcome does not matter, and every stratum has
equal weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from . import bootstrap
from .bootstrap import Moves
from .coordinates import Coordinates, Matrix
from .estimates import Shares, refused, report
from .grid import STRATUM
from .item_noise import compressed
from .plausible import DrawnSquares, plausible
from .solver import EVERY, Solver
from .sources import adjusted, strata
from .span import Spans

SPREAD = 1e-12  # an outcome whose sum of squares is not above this has no spread
ROUNDING = 1e-10  # parts of the sum of squares below this are rounding errors


def shares(
    frame: pd.DataFrame,
    of: Sequence[Coordinates],
    by: Sequence[str] = STRATUM,
    resamples: int = 999,
    seed: int = 0,
    items: Matrix | None = None,
) -> Shares:
    """Variance components of one outcome. `of` has the coordinates of each stratum, in the order of `strata`.

    `items` (cells, items), if given, is the noise of each evaluated item, in the units of the outcome
    (`item_noise.py`). It is subtracted from the sums of squares, and items are resampled together with draws. Strata
    in which the outcome has no spread, or that have too few cells, are left out.
    """
    return Design(frame, by).shares(of, resamples, seed, items)


class Design:
    """The cells of a study with the equations of each stratum, prepared once for any number of outcomes."""

    def __init__(self, frame: pd.DataFrame, by: Sequence[str] = STRATUM) -> None:
        self.frame, self.rows = frame, strata(frame, by)
        parts = [frame.iloc[rows] for rows in self.rows]
        self.added = [adjusted(Spans(part)) for part in parts]
        self.solvers = [Solver(part, each) for part, each in zip(parts, self.added, strict=True)]
        self.refusals = [solver.refusal() for solver in self.solvers]
        self.no_interval = bootstrap.refusal(frame)
        self.draws = bootstrap.Draws(frame, by)

    def shares(
        self, of: Sequence[Coordinates], resamples: int = 999, seed: int = 0, items: Matrix | None = None
    ) -> Shares:
        """Variance components of one outcome; see the function `shares`."""
        used = [i for i, note in enumerate(self.refusals) if not note and of[i].total > SPREAD]
        draws = bootstrap.count(self.frame)
        if not used:
            note = next(filter(None, self.refusals), "all cells of a stratum have the same outcome")
            return refused(len(self.frame), draws, note)
        df = {name: sum(self.solvers[i].df[name] for i in used) for name in EVERY}
        cells = sum(len(self.rows[i]) for i in used)
        squares = [(self._squares(i, of[i]), self._noise(i, items)) for i in used]
        if self.no_interval:
            found = [self._estimate(i, *each) for i, each in zip(used, squares, strict=True)]
            return report(np.array(found), None, df, cells, draws, self.no_interval)
        moved = self.draws.moves(of, None if items is None else compressed(items, seed))
        weights = bootstrap.weights(moved[0].columns, resamples, seed)
        likely = [
            plausible(self.solvers[i], *each, self._drawn(i, moved[i], weights))
            for i, each in zip(used, squares, strict=True)
        ]
        return report(np.array([each.estimate for each in likely]), likely, df, cells, draws, "")

    def _squares(self, i: int, of: Coordinates) -> Matrix:
        """The sums of squares (names,) that the sources explain in stratum i."""
        return _rounded(np.array([self.added[i][name].squares(of) for name in self.solvers[i].names]), of)

    def _noise(self, i: int, items: Matrix | None) -> Matrix:
        """The part (names,) of these sums of squares that is expected from the noise of items (cells, items)."""
        if items is None:
            return np.zeros(len(self.solvers[i].names))
        return self._squares(i, Coordinates(items[self.rows[i]], np.ones(items.shape[1])))

    def _estimate(self, i: int, squares: Matrix, noise: Matrix) -> Matrix:
        """The components (sources,) of stratum i, in the order of EVERY."""
        return self.solvers[i].spread_out(self.solvers[i].components(squares - noise))

    def _drawn(self, i: int, moved: Moves, weights: Matrix) -> DrawnSquares:
        """The sums of squares of resamples with the given weights (resamples, columns)."""
        added = [self.added[i][name] for name in self.solvers[i].names]
        forms = [_rounded(moved.added_form(each), moved.observed) for each in added]
        fixed = np.array([form[-1, -1] for form in forms])
        linear = np.column_stack([2 * weights @ form[:-1, -1] for form in forms])
        quadratic = np.column_stack([((weights @ form[:-1, :-1]) * weights).sum(axis=1) for form in forms])
        return DrawnSquares(fixed, linear, quadratic)


def _rounded(squares: Matrix, of: Coordinates) -> Matrix:
    """Sums of squares, with 0 for rounding errors: if masks are equal, a source explains nothing."""
    return np.where(np.abs(squares) < ROUNDING * of.total, 0.0, squares)
