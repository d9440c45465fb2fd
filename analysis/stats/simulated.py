"""Simulated studies with known variance components: how often a verdict is reached, also by noise alone.

Effects of objectives, data and searches are fixed: in every stratum they have exactly the asked variance (ddof 1)
over the levels of the study. Draws and the rest are normal and new in every study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import linalg, stats

from .components import (
    CALIBRATION,
    COLUMNS_OF,
    DRAWN,
    INTERACTION,
    NOISE,
    OBJECTIVE,
    PANEL,
    RESIDUAL,
    SEARCH,
    Design,
    Shares,
    item_noise,
    strata,
    unknown_noise,
)
from .grid import DRAW, Labels, labels
from .projections import Coordinates, Matrix, of_values, spanned

# In how many simulated studies a ratio of shares is decided, if each configuration has another number of draws.
#
# The studies have the shares, the noise, the objectives, the data and the searches of a study that was run;
# objectives share samples as they do in that study.

# Each ratio has the search on its other side, and the interaction on both sides.
RATIOS = {"calibration : search": CALIBRATION, "objective : search": OBJECTIVE}
POWER_RESAMPLES = 199

Components = Mapping[str, float]


@dataclass(frozen=True)
class Decided:
    """Of `studies` simulated studies, in how many the interval of a ratio leaves out 1.

    `decided` counts studies with the true ratio `value`, `if_equal` studies with the true ratio 1.
    """

    value: float
    decided: int
    if_equal: int
    studies: int


def power(scenario: Scenario, studies: int, resamples: int = POWER_RESAMPLES) -> dict[str, Decided]:
    """How often each ratio of RATIOS is decided. Objective : search is left out if there is one objective only."""

    def decided(of: Scenario) -> dict[str, int]:
        every = [of.shares(seed, resamples) for seed in range(studies)]
        both = [[s.total_ratio.leaves_out(1), s.objective_ratio.leaves_out(1)] for s in every]
        return {name: sum(of_one) for name, of_one in zip(RATIOS, zip(*both, strict=True), strict=True)}

    components, counts, own = scenario.components, {}, decided(scenario)
    for name, side in RATIOS.items():
        if any(source in components for source in side):
            equal = replace(scenario, components=equalised(components, side))
            counts[name] = Decided(ratio(components, side), own[name], decided(equal)[name], studies)
    return counts


def ratio(components: Components, side: Sequence[str]) -> float:
    """The components of `side` against those of the search, with the interaction on both sides."""
    above, below = (_power_sum(components, (*names, *INTERACTION)) for names in (side, SEARCH))
    return above / below if below > 0 else float("inf")


def equalised(components: Components, side: Sequence[str]) -> dict[str, float]:
    """The components, with those of `side` and of the search changed so that both sides have half of their sum.

    The sources of `side` keep their proportions. If all are 0, they become equal.
    """
    half = (_power_sum(components, side) + _power_sum(components, SEARCH)) / 2
    moved = dict(components)
    for names in (side, SEARCH):
        known = [name for name in names if name in components]
        whole = _power_sum(components, known)
        for name in known:
            moved[name] = half * (components[name] / whole if whole > 0 else 1 / len(known))
    return moved


def _power_sum(components: Components, names: Sequence[str]) -> float:
    return sum(components.get(name, 0.0) for name in names)


@dataclass(frozen=True)
class Pilot:
    """One outcome of a study that was run: its cells, the columns of its strata, its shares by source, its noise.

    `noise` has the variance of each objective's noise, relative to the mean. `dimensions` is the number of
    independent coordinates in which the noise varies: 1 for numbers.
    """

    frame: pd.DataFrame
    by: Sequence[str]
    components: Components
    noise: Mapping[str, float]
    dimensions: int

    @classmethod
    def of(cls, frame: pd.DataFrame, of: Sequence[Coordinates], by: Sequence[str], shares: Shares) -> Pilot:
        """The pilot for an outcome with coordinates `of` (one per stratum), whose shares are not refused.

        Noise is the deviation of a cell from the mean over draws. Its number of dimensions is (sum of v)^2 / sum of
        v^2 for variances v along principal axes: n if n axes have the same variance. Both are means over strata.
        """
        sources = shares.sources[shares.sources["share"].notna()]
        components = dict(zip(sources["source"], sources["share"].astype(float), strict=True))
        variances, dimensions = list[tuple[str, float]](), list[float]()
        for rows, c in zip(strata(frame, by), of, strict=True):
            part = frame.iloc[rows]
            deviations = c.x - spanned([labels(part, PANEL)]).fit(c.x)
            squares = deviations**2 @ c.signs
            if squares.mean() <= 0:
                continue
            for objective, members in part.groupby("objective").indices.items():
                variances.append((str(objective), max(0.0, squares[members].mean() / squares.mean())))
                v = linalg.svdvals(deviations[members]) ** 2
                dimensions += [v.sum() ** 2 / (v**2).sum()] if v.sum() > 0 else []
        table = pd.DataFrame(variances, columns=["objective", "variance"])
        noise = {str(name): float(v.mean()) for name, v in table.groupby("objective")["variance"]}
        return cls(frame, by, components, noise, max(1, round(float(np.mean(dimensions or [1.0])))))

    def scenario(self, draws: int) -> Scenario:
        """The scenario of studies with this number of draws of every configuration."""
        noise = {DRAWN: self.noise, RESIDUAL: self.noise}
        design = Design(with_draws(self.frame, draws), self.by)
        return Scenario(design, self.components, noise=noise, dimensions=self.dimensions)


def power_refusal(frame: pd.DataFrame, shares: Shares) -> str:
    """The reason why a study is no pilot; empty if it is one."""
    return shares.note if shares.sources.empty else unknown_noise(frame)


def with_draws(frame: pd.DataFrame, draws: int) -> pd.DataFrame:
    """The cells of a study of the same design, with this number of draws of every configuration and search.

    There is one cell for each search and draw, even if the study has repeats.
    """
    return frame[PANEL].drop_duplicates().merge(pd.DataFrame({"draw": range(draws)}), how="cross")


@dataclass(frozen=True)
class Scenario:
    """True components by the names of sources, the same in every stratum. A source that is not named has no effect.

    Cells with equal values in the columns `draw` share the effect of their draw: by default in all strata, for all
    objectives that read the same samples. `noise` has, for DRAWN and RESIDUAL, the variances of objectives relative
    to each other, if they differ. `dimensions` is the number of independent coordinates of an outcome.
    """

    design: Design
    components: Components
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
            for number, stratum in enumerate(self.design.strata):
                y[stratum.rows] += self._effect(name, number, rng)
        return np.asarray(y / np.sqrt(self.dimensions))

    def shares(self, seed: int, resamples: int) -> Shares:
        """The shares that the analysis estimates from the study of this seed."""
        study = self.study(seed)
        parts = [study[stratum.rows] for stratum in self.design.strata]
        of = [Coordinates(y - y.mean(axis=0), np.ones(self.dimensions)) for y in parts]
        return self.design.shares(of, resamples, seed)

    @cached_property
    def _draws(self) -> Labels:
        """The number (cells,) of the draw effect of each cell, in the order in which draws appear."""
        return np.asarray(pd.factorize(labels(self.design.frame, self.draw))[0], np.int64)

    @cached_property
    def _fixed(self) -> dict[str, list[Labels]]:
        """The sources with fixed effects, each with the levels (rows,) of the cells of every stratum."""
        parts = [self.design.frame.iloc[stratum.rows] for stratum in self.design.strata]
        names = [n for n in COLUMNS_OF if n not in NOISE and self.components.get(n, 0.0) > 0]
        return {name: [labels(part, COLUMNS_OF[name]) for part in parts] for name in names}

    def _effect(self, name: str, number: int, rng: np.random.Generator) -> Matrix:
        """Random effects (rows, dimensions) of a source in a stratum, with exactly the variance of its component."""
        stratum, levels = self.design.strata[number], self._fixed[name][number]
        added = stratum.added[name]
        effect = added.fit(rng.normal(size=(levels.max() + 1, self.dimensions))[levels])
        if not added.df:
            return np.zeros_like(effect)
        at = stratum.names.index(name)
        square = self.components[name] * stratum.coefficients[at, at] * self.dimensions
        return np.asarray(effect * np.sqrt(square / (effect**2).sum()))

    def _sizes(self, name: str) -> Matrix:
        """The standard deviation (cells, 1) of a source of noise. Its mean square is the component."""
        variances = self.noise.get(name, {})
        relative = np.array([variances.get(o, 1.0) for o in self.design.frame["objective"]])
        return np.asarray(np.sqrt(self.components.get(name, 0.0) * relative / relative.mean())[:, None])


# Would noise alone lead to the verdict? Studies are simulated in which all masks are equally accurate.
#
# Each distinct mask gets an accuracy that is noise; equal masks get the same. Few distinct masks exist within a
# setting, so noise alone makes settings differ more than searches. A verdict that such studies reach too often is no
# verdict.

MOST = 0.05  # a verdict that noise alone reaches in more than this share of studies is inconclusive
STUDIES = 60  # simulated studies; fewer if the answer is clear earlier
NOISE_RESAMPLES = 199


@dataclass(frozen=True)
class NoiseAlone:
    """In how many of `studies` simulated studies the interval of the ratio does not contain 1."""

    decided: int
    studies: int

    @property
    def too_often(self) -> bool:
        """Whether noise alone reaches a verdict in more than 5 percent of studies."""
        return self.decided > MOST * self.studies


def noise_alone(
    frame: pd.DataFrame, answers: Mapping[str, Matrix] | None = None, seed: int = 0
) -> NoiseAlone:
    """How often the symmetric ratio of calibration to search would be decided if accuracies were only noise.

    `answers` maps each task to the answers (cells, items), from 0 to 1. Items are then drawn anew and their noise is
    subtracted, as in the study. Without answers, the accuracies of distinct masks are independent normal numbers. The
    simulation ends early if it is certain that the verdict comes too often.
    """
    design, rng = Design(frame), np.random.default_rng(seed)
    mask = labels(frame.assign(dropped=frame["dropped"].map(str)), ["model", "dropped"])
    decided = 0
    for number in range(1, STUDIES + 1):
        if answers is None:
            y, items = rng.normal(size=mask.max() + 1)[mask], None
        else:
            redrawn = _redrawn(answers, mask, rng)
            items = item_noise(redrawn)
            y = np.asarray(100 * np.mean([task.mean(axis=1) for task in redrawn.values()], axis=0))
        of = [of_values(y[stratum.rows]) for stratum in design.strata]
        decided += design.shares(of, NOISE_RESAMPLES, number, items).total_ratio.leaves_out(1)
        if stats.binomtest(decided, number).proportion_ci(0.98).low > MOST and decided >= 4:
            return NoiseAlone(decided, number)
    return NoiseAlone(decided, STUDIES)


def _redrawn(answers: Mapping[str, Matrix], mask: Labels, rng: np.random.Generator) -> dict[str, Matrix]:
    """Answers (cells, items) to items drawn anew, of masks that all have the same true accuracy in a task."""
    first = np.unique(mask, return_index=True)[1]
    redrawn = {}
    for task, of_task in answers.items():
        distinct = of_task[first]
        alike = distinct - distinct.mean(axis=1, keepdims=True) + distinct.mean()
        n = alike.shape[1]
        redrawn[task] = alike[:, rng.integers(n, size=n)][mask]
    return redrawn
