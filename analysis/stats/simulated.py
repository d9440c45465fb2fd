"""Simulated studies whose variance components are known.

Effects of objectives, data and searches are fixed: in every stratum they have exactly the asked variance (ddof 1)
over the levels of the study. Draws and the rest are normal and new in every study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from .bootstrap import PANEL
from .components import Design
from .coordinates import Coordinates, Matrix
from .estimates import Shares
from .grid import DRAW, Labels, labels
from .solver import COLUMNS, NOISE
from .sources import DRAWN, RESIDUAL


def with_draws(frame: pd.DataFrame, draws: int) -> pd.DataFrame:
    """The cells of a study of the same design, with this number of draws of every configuration and search.

    There is one cell for each search and draw, even if the study has repeats.
    """
    panels = frame[PANEL].drop_duplicates()
    return panels.merge(pd.DataFrame({"draw": range(draws)}), how="cross")


@dataclass(frozen=True)
class Scenario:
    """True components by the names of sources, the same in every stratum. A source that is not named has no effect.

    Cells with equal values in the columns `draw` have the same effect of their draw. By default these are the cells
    of all strata, and of all objectives that read the same samples. `noise` has, for DRAWN and RESIDUAL, the
    variances of objectives relative to each other, if they differ. `dimensions` is the number of independent
    coordinates of an outcome: 1 for a number, more for a mask.
    """

    design: Design
    components: Mapping[str, float]
    draw: Sequence[str] = tuple(DRAW)
    noise: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    dimensions: int = 1

    def study(self, seed: int) -> Matrix:
        """The outcomes (cells, dimensions) of one simulated study, in the order of the design's cells."""
        rng = np.random.default_rng(seed)
        drawn = rng.normal(size=(self._draws.max() + 1, self.dimensions))[self._draws]
        rest = rng.normal(size=drawn.shape)
        y = self._sizes(DRAWN) * drawn + self._sizes(RESIDUAL) * rest
        for name in self._fixed:
            for stratum, rows in enumerate(self.design.rows):
                y[rows] += self._effect(name, stratum, rng)
        return np.asarray(y / np.sqrt(self.dimensions))

    def shares(self, seed: int, resamples: int) -> Shares:
        """The shares that the analysis estimates from the study of this seed."""
        parts = [self.study(seed)[rows] for rows in self.design.rows]
        of = [Coordinates(y - y.mean(axis=0), np.ones(self.dimensions)) for y in parts]
        return self.design.shares(of, resamples, seed)

    @cached_property
    def _draws(self) -> Labels:
        """The number (cells,) of the draw effect of each cell, in the order in which draws appear."""
        return np.asarray(pd.factorize(labels(self.design.frame, self.draw))[0], np.int64)

    @cached_property
    def _fixed(self) -> dict[str, list[Labels]]:
        """The sources with fixed effects, each with the levels (rows,) of the cells of every stratum."""
        parts = [self.design.frame.iloc[rows] for rows in self.design.rows]
        names = [n for n in COLUMNS if n not in NOISE and self.components.get(n, 0.0) > 0]
        return {name: [labels(part, COLUMNS[name]) for part in parts] for name in names}

    def _effect(self, name: str, stratum: int, rng: np.random.Generator) -> Matrix:
        """Random effects (rows, dimensions) of a source in a stratum, with exactly the variance of its component."""
        levels, added = self._fixed[name][stratum], self.design.added[stratum][name]
        effect = added.fit(rng.normal(size=(levels.max() + 1, self.dimensions))[levels])
        if not added.df:
            return np.zeros_like(effect)
        solver = self.design.solvers[stratum]
        at = solver.names.index(name)
        square = self.components[name] * solver.coefficients[at, at] * self.dimensions
        return np.asarray(effect * np.sqrt(square / (effect**2).sum()))

    def _sizes(self, name: str) -> Matrix:
        """The standard deviation (cells, 1) of a source of noise. Its mean square is the component."""
        variances = self.noise.get(name, {})
        relative = np.array([variances.get(o, 1.0) for o in self.design.frame["objective"]])
        return np.asarray(np.sqrt(self.components.get(name, 0.0) * relative / relative.mean())[:, None])
