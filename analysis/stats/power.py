"""In how many simulated studies a ratio of shares is decided, if each configuration has another number of draws.

The studies are simulated (`simulated.py`) with the shares and the noise that a study which was run has. They have its
objectives, data and searches; objectives share samples as they do in that study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import linalg

from .bootstrap import PANEL, unknown_noise
from .components import Design
from .coordinates import Coordinates
from .estimates import OBJECTIVE, IntervalEstimate, Shares
from .grid import labels
from .simulated import Scenario, with_draws
from .sources import CALIBRATION, DRAWN, INTERACTION, RESIDUAL, SEARCH, strata
from .span import spanned

RATIOS = {
    "calibration : search": CALIBRATION,
    "objective : search": OBJECTIVE,
}  # each: search, interaction on both sides
RESAMPLES = 199

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
        """The pilot for an outcome with coordinates `of` (one per stratum), whose shares are not refused."""
        sources = shares.sources[shares.sources["share"].notna()]
        components = dict(zip(sources["source"], sources["share"].astype(float), strict=True))
        return cls(frame, by, components, *_noise(frame, of, by))

    def scenario(self, draws: int) -> Scenario:
        """The scenario of studies with this number of draws of every configuration."""
        noise = {DRAWN: self.noise, RESIDUAL: self.noise}
        design = Design(with_draws(self.frame, draws), self.by)
        return Scenario(design, self.components, noise=noise, dimensions=self.dimensions)


def refusal(frame: pd.DataFrame, shares: Shares) -> str:
    """The reason why a study is no pilot; empty if it is one."""
    return shares.note if shares.sources.empty else unknown_noise(frame)


def power(scenario: Scenario, studies: int, resamples: int = RESAMPLES) -> dict[str, Decided]:
    """How often each ratio of RATIOS is decided. Objective : search is left out if there is one objective only."""
    components, counts = scenario.components, {}
    decided = _decided(scenario, studies, resamples)
    for name, side in RATIOS.items():
        if any(source in components for source in side):
            equal = replace(scenario, components=equalised(components, side))
            if_equal = _decided(equal, studies, resamples)[name]
            counts[name] = Decided(ratio(components, side), decided[name], if_equal, studies)
    return counts


def ratio(components: Components, side: Sequence[str]) -> float:
    """The components of `side` against those of the search, with the interaction on both sides."""
    above, below = (_sum(components, (*names, *INTERACTION)) for names in (side, SEARCH))
    return above / below if below > 0 else float("inf")


def equalised(components: Components, side: Sequence[str]) -> dict[str, float]:
    """The components, with those of `side` and of the search changed so that both sides have half of their sum.

    The sources of `side` keep their proportions. If all are 0, they become equal.
    """
    half = (_sum(components, side) + _sum(components, SEARCH)) / 2
    moved = dict(components)
    for names in (side, SEARCH):
        known = [name for name in names if name in components]
        whole = _sum(components, known)
        for name in known:
            moved[name] = half * (components[name] / whole if whole > 0 else 1 / len(known))
    return moved


def _sum(components: Components, names: Sequence[str]) -> float:
    return sum(components.get(name, 0.0) for name in names)


def _decided(scenario: Scenario, studies: int, resamples: int) -> dict[str, int]:
    every = [_ratios(scenario.shares(seed, resamples)) for seed in range(studies)]
    return {name: sum(ratios[name].leaves_out(1) for ratios in every) for name in RATIOS}


def _ratios(shares: Shares) -> dict[str, IntervalEstimate]:
    return dict(zip(RATIOS, (shares.total_ratio, shares.objective_ratio), strict=True))


def _noise(frame: pd.DataFrame, of: Sequence[Coordinates], by: Sequence[str]) -> tuple[dict[str, float], int]:
    """The relative variances of the objectives' noise, and its number of dimensions.

    Noise is the deviation of a cell from the mean over draws. Its number of dimensions is (sum of v)^2 / sum of v^2
    for variances v along principal axes: n if n axes have the same variance. Both are means over strata.
    """
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
    return noise, max(1, round(float(np.mean(dimensions or [1.0]))))
