"""The equations of variance components in one stratum: from sums of squares to components.

Sums of squares grow with the number of levels even if nothing has an effect. Let Q_j be a basis of what source j adds
to the sources that do not contain it, and Z_i the indicators of source i. Then

    E[SS_j] = s_j^2 tr(Q_j' Z_j Z_j' Q_j) + sum over noise i of sigma_i^2 tr(Q_j' Z_i Z_i' Q_j),

where the noise sources i are the draw and the residual. These equations are solved for s_j^2 and sigma_i^2 (Searle,
Casella and McCulloch 1992, chapter 5). In a balanced grid, a component is (the mean square of the source - the mean
square of its noise) / (the number of cells per level), but the grid need not be balanced. The estimates are unbiased,
and can be negative if the true component is zero. s_j^2 is the variance (ddof 1) of the effects over the levels in
the study.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .coordinates import Matrix
from .grid import indicator, labels
from .sources import CALIBRATION, DRAWN, RESIDUAL, SOURCES
from .span import Addition

COLUMNS = {source.name: source.columns for source in SOURCES}
EVERY = (*COLUMNS, RESIDUAL)
NOISE = (DRAWN, RESIDUAL)


class Solver:
    """The equations of one stratum, from what each source adds. `names` are the sources with levels to compare."""

    def __init__(self, part: pd.DataFrame, added: Mapping[str, Addition]) -> None:
        self.df = {name: added[name].df for name in EVERY}
        self.names = [name for name in EVERY if self.df[name]]
        self.coefficients = np.zeros((len(self.names), len(self.names)))
        for i, name in enumerate(self.names):
            z = None if name == RESIDUAL else indicator(labels(part, COLUMNS[name]))
            for j, other in enumerate(self.names):
                if i == j or name in NOISE:
                    # tr(Q'ZZ'Q); for the residual, Z is the identity.
                    trace = added[other].df if z is None else (added[other].fit(z) ** 2).sum()
                    self.coefficients[j, i] = float(trace)
        self.noise = np.array([name in NOISE for name in self.names])

    def components(self, squares: Matrix) -> NDArray[np.float64]:
        """The components (..., names) for sums of squares (..., names)."""
        return np.asarray(np.linalg.solve(self.coefficients, np.asarray(squares).T).T)

    def expected_noise(self, components: Matrix) -> NDArray[np.float64]:
        """What draw and residual are expected to add to each sum of squares (..., names)."""
        return np.asarray(components[..., self.noise] @ self.coefficients[:, self.noise].T)

    def spread_out(self, values: Matrix) -> NDArray[np.float64]:
        """Values (..., names) in the order of EVERY. Sources without levels to compare get 0."""
        whole = np.zeros((*values.shape[:-1], len(EVERY)))
        whole[..., [EVERY.index(name) for name in self.names]] = values
        return whole

    def refusal(self) -> str:
        """Why no component can be computed; empty if the cells suffice."""
        if not any(self.df[name] for name in CALIBRATION):
            return "one calibration only: nothing to compare the search with"
        if not self.df["algorithm"]:
            return "one algorithm only: nothing to compare the calibration with"
        if self.df[RESIDUAL] < 3:
            return f"{self.df[RESIDUAL]} degrees of freedom are left for noise; at least 3 are needed"
        return ""
