"""Set up and solve the equations of `components`: from sums of squares to variance components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .coordinates import Matrix
from .grid import indicator, labels
from .sources import CALIBRATION, DRAWN, RESIDUAL, SOURCES
from .span import Addition

COLUMNS = {source.name: source.columns for source in SOURCES}


class Solver:
    """The equations, built from what the sources add in each stratum. A call solves them for the components."""

    def __init__(self, parts: Sequence[tuple[pd.DataFrame, Mapping[str, Addition]]]) -> None:
        every = (*COLUMNS, RESIDUAL)
        self.df = {name: sum(added[name].df for _, added in parts) for name in every}
        self.names = [name for name in every if self.df[name]]
        self.coefficients = np.zeros((len(self.names), len(self.names)))
        for part, added in parts:
            for i, name in enumerate(self.names):
                z = None if name == RESIDUAL else indicator(labels(part, COLUMNS[name]))
                for j, other in enumerate(self.names):
                    if i == j or name in (DRAWN, RESIDUAL):
                        # tr(Q'ZZ'Q); for the residual, Z is the identity.
                        trace = added[other].df if z is None else (added[other].fit(z) ** 2).sum()
                        self.coefficients[j, i] += float(trace)

    def __call__(self, squares: Mapping[str, Matrix | float]) -> NDArray[np.float64]:
        """The components (..., sources) for given sums of squares (...,) of each source, in the order of `names`."""
        right = np.array([squares[name] for name in self.names])
        return np.asarray(np.linalg.solve(self.coefficients, right).T)

    def refusal(self) -> str:
        """Why no component can be computed; empty if the cells suffice."""
        if not any(self.df[name] for name in CALIBRATION):
            return "one calibration only: nothing to compare the search with"
        if not self.df["algorithm"]:
            return "one algorithm only: nothing to compare the calibration with"
        if self.df[RESIDUAL] < 3:
            return f"{self.df[RESIDUAL]} degrees of freedom are left for noise; at least 3 are needed"
        return ""

    def of(self, components: NDArray[np.float64], group: Sequence[str]) -> NDArray[np.float64]:
        """Add up the components (last axis) of the sources in `group`."""
        chosen = [i for i, name in enumerate(self.names) if name in group]
        return np.asarray(components[..., chosen].sum(-1))
