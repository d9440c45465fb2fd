"""Simulated studies with known variance components, and how often intervals cover their known shares.

Effects of objectives, data and searches are fixed: in every stratum, their variance (ddof 1) over the levels of the
study is exactly the chosen one. The effects of draws and the residuals are random and new in every study.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.stats.components import (
    DRAWN,
    NOISE,
    RESIDUAL,
    SOURCES,
    Coordinates,
    Design,
    IntervalEstimate,
    Shares,
)
from analysis.stats.grid import DRAW, SETTING, STRATUM, labels
from tests.helpers.analysis_grid import frame

Matrix = NDArray[np.float64]
Random = Callable[[np.random.Generator, tuple[int, ...]], Matrix]  # numbers of mean 0 and variance 1
DATA, SEARCH, BOTH = "calibration data", "algorithm", "objective x algorithm"


# -- random numbers of mean 0 and variance 1


def normal(rng: np.random.Generator, size: tuple[int, ...]) -> Matrix:
    """Normal numbers."""
    return rng.normal(size=size)


def heavy(rng: np.random.Generator, size: tuple[int, ...]) -> Matrix:
    """Student's t with three degrees of freedom: rare outliers decide the variance."""
    return rng.standard_t(3, size) / 3**0.5


def skewed(rng: np.random.Generator, size: tuple[int, ...]) -> Matrix:
    """Exponential numbers: most are slightly below the mean, few are far above it."""
    return rng.exponential(size=size) - 1


def dominated(rng: np.random.Generator, size: tuple[int, ...]) -> Matrix:
    """Normal numbers; in each study, one in six has 25 times the variance of the others."""
    large = rng.permuted(np.arange(size[0]) % 6 == 0).reshape(-1, *[1] * (len(size) - 1))
    return np.where(large, 5.0, 1.0) * rng.normal(size=size) / np.sqrt(30 / 6)


# -- studies


@dataclass(frozen=True)
class Scenario:
    """True variance components by source, equal in every stratum. A source that is not named has no effect.

    Cells with equal values in the columns `draw` share the effect of their draw: by default in all strata, for all
    objectives that read the same samples. If variances of DRAWN or RESIDUAL differ between objectives, `noise` has
    their ratios. `dimensions` is the number of independent coordinates of an outcome. `random` generates the effects
    of draws and the residuals.
    """

    design: Design
    components: Mapping[str, float]
    draw: Sequence[str] = tuple(DRAW)
    noise: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    dimensions: int = 1
    random: Random = normal

    def study(self, seed: int) -> Matrix:
        """The outcomes (cells, dimensions) of one simulated study, in the order of the design's cells."""
        rng = np.random.default_rng(seed)
        drawn = self.random(rng, (self._draws.max() + 1, self.dimensions))[self._draws]
        y = self._sizes(DRAWN) * drawn + self._sizes(RESIDUAL) * self.random(rng, drawn.shape)
        for name in SOURCES:
            for stratum in self.design.strata:
                if name not in NOISE and self.components.get(name, 0.0) > 0 and stratum.df[name]:
                    y[stratum.rows] += self._effect(name, stratum, rng)
        return np.asarray(y / np.sqrt(self.dimensions))

    def shares(self, seed: int, resamples: int) -> Shares:
        """The shares that the analysis estimates from the study with this seed."""
        study = self.study(seed)
        parts = [study[stratum.rows] for stratum in self.design.strata]
        of = [Coordinates(y - y.mean(axis=0), np.ones(self.dimensions)) for y in parts]
        return self.design.shares(of, resamples, seed)

    @cached_property
    def _draws(self) -> Any:
        """The number of each cell's draw, as an array (cells,); draws are numbered in the order of appearance."""
        return pd.factorize(labels(self.design.frame, self.draw))[0]

    def _effect(self, name: str, stratum: Any, rng: np.random.Generator) -> Matrix:
        """Random effects (rows, dimensions) of a source in a stratum; their variance is exactly its component."""
        levels = labels(self.design.frame.iloc[stratum.rows], SOURCES[name])
        q = stratum.bases[name]
        effect = q @ (q.T @ rng.normal(size=(levels.max() + 1, self.dimensions))[levels])
        at = stratum.names.index(name)
        square = self.components[name] * stratum.coefficients[at, at] * self.dimensions
        return np.asarray(effect * np.sqrt(square / (effect**2).sum()))

    def _sizes(self, name: str) -> Matrix:
        """The standard deviations (cells, 1) of a source of noise. Their mean square is its component."""
        variances = self.noise.get(name, {})
        relative = np.array([variances.get(o, 1.0) for o in self.design.frame["objective"]])
        return np.asarray(np.sqrt(self.components.get(name, 0.0) * relative / relative.mean())[:, None])


# -- designs and scenarios


@cache
def archived_design(draws: int = 3, of_losses: bool = False) -> Design:
    """The design of the archived small study, for its masks or, if `of_losses`, for its losses.

    It has four strata (two models, two sizes), four objectives, two data sets for each of these, three draws, and
    seven algorithms. Three objectives share their texts; the fourth uses items. Losses have a stratum per objective.
    """
    cells = frame(objectives=4, data=2, draws=draws, algos=7, models=("a", "b"), ks=(3, 6))
    items = cells["calibration"].mask(cells["objective"] == "o3", "item set " + cells["calibration"])
    return Design(cells.assign(calibration=items), [*STRATUM, "objective"] if of_losses else STRATUM)


@cache
def main_design(draws: int = 6, algos: int = 7) -> Design:
    """The design of the larger study's main comparison: one stratum, two objectives on text, and one on items."""
    cells = frame(objectives=3, data=1, draws=draws, algos=algos)
    items = cells["calibration"].mask(cells["objective"] == "o2", "items")
    return Design(cells.assign(calibration=items))


def scenario(
    components: Mapping[str, float],
    draws: int = 3,
    of_losses: bool = False,
    shared: bool = True,
) -> Scenario:
    """A scenario on the archived design. Unless `shared`, a draw's effect differs between strata and objectives."""
    return Scenario(archived_design(draws, of_losses), components, DRAW if shared else [*STRATUM, *SETTING])


def truth(of: Scenario) -> dict[str, float]:
    """The true shares and ratios of a scenario, by name."""
    whole = sum(of.components.values())
    every = ("objective", DATA, SEARCH, BOTH, DRAWN, RESIDUAL)
    share = {name: of.components.get(name, 0.0) / whole for name in every}
    calibration = share["objective"] + share[DATA] + share[DRAWN]
    search, interaction = share[SEARCH], share[BOTH] + share[RESIDUAL]
    both = (calibration + interaction) / (search + interaction)
    known = {"calibration": calibration, "search": search, "interaction": interaction}
    known |= {"draw": share[DRAWN], "calibration : search": both}
    if not of.design.strata[0].df["objective"]:
        return known
    objective = share["objective"]
    against = (objective + interaction) / (search + interaction)
    return known | {"objective": objective, "objective : search": against}


def estimates(shares: Shares) -> dict[str, IntervalEstimate]:
    """The estimates of a study, by the names of `truth`."""
    rows = shares.sources.set_index("source")[["share", "low", "high"]]
    named = {"draw": DRAWN, "objective": "objective"}
    return {
        **shares.parts,
        **{name: IntervalEstimate(*map(float, rows.loc[source])) for name, source in named.items()},
        "calibration : search": shares.total_ratio,
        "objective : search": shares.objective_ratio,
    }


@dataclass(frozen=True)
class Coverage:
    """For one quantity: the true value, the fraction of intervals that cover it, and the mean and median estimate."""

    truth: float
    covered: float
    mean: float
    median: float


def coverage(of: Scenario, studies: int, resamples: int = 299) -> dict[str, Coverage]:
    """For each quantity of `truth`, how often the intervals of simulated studies cover it."""
    every = [estimates(of.shares(seed, resamples)) for seed in range(studies)]
    return {name: _coverage(true, [one[name] for one in every]) for name, true in truth(of).items()}


def _coverage(true: float, found: list[IntervalEstimate]) -> Coverage:
    covered = [e.low <= true + 1e-12 and true <= e.high + 1e-12 for e in found]
    values = [e.value for e in found]
    return Coverage(true, float(np.mean(covered)), float(np.mean(values)), float(np.nanmedian(values)))


LOSS = {DATA: 0.13, DRAWN: 0.44, SEARCH: 0.25, RESIDUAL: 0.18}
MASKS = {"objective": 0.37, DATA: 0.05, DRAWN: 0.24, SEARCH: 0.01, BOTH: 0.03, RESIDUAL: 0.3}
NULL_OBJECTIVE = {DRAWN: 0.5, SEARCH: 0.1, BOTH: 0.05, RESIDUAL: 0.35}
SCENARIOS = {
    "loss": scenario(LOSS, of_losses=True),
    "null search": scenario({"objective": 0.37, DATA: 0.05, DRAWN: 0.24, RESIDUAL: 0.34}),
    "large interaction": scenario({"objective": 0.02, DRAWN: 0.03, SEARCH: 0.05, BOTH: 0.05, RESIDUAL: 0.85}),
}
# Scenarios on the design of the main comparison, with six draws; the shares are similar to the real ones.
MAIN = {"objective": 0.5, DRAWN: 0.15, SEARCH: 0.05, BOTH: 0.05, RESIDUAL: 0.25}
UNEQUAL = {name: {"o2": 1000.0} for name in NOISE}
HARD: Mapping[str, Mapping[str, Any]] = {
    "normal": {},
    "heavy tails": {"random": heavy},
    "skewed": {"random": skewed},
    "one dominating draw": {"random": dominated},
    "noise 1:1:1000": {"noise": UNEQUAL},
    "noise 1:1:1000, heavy tails": {"noise": UNEQUAL, "random": heavy},
    "eight dimensions": {"dimensions": 8},
    "eight dimensions, noise 1:1:1000": {"dimensions": 8, "noise": UNEQUAL},
    "eight dimensions, one dominating draw": {"dimensions": 8, "random": dominated},
}
