"""Simulated studies whose shares are known, on the design of the archived study.

Four strata (two models, two sizes), four objectives, two data sets each, three draws, seven algorithms. Three
objectives share their texts, the fourth has items. Fixed effects have exactly the chosen variance, so only draws and
the rest differ between studies of the same scenario. `of_losses` has one stratum per objective, as losses have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats.coordinates import of_values
from analysis.stats.components import Design
from analysis.stats.estimates import IntervalEstimate, Shares
from analysis.stats.grid import STRATUM, labels
from analysis.stats.sources import strata
from tests.helpers.analysis_grid import frame

OBJECTIVES = 4
# What explains each part: the levels whose effects are drawn, and the columns over which they add up to zero.
FIXED: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "objective": (["objective"], ["objective"]),
    "data": (["objective", "calibration"], ["calibration"]),
    "search": (["algo"], ["algo"]),
    "objective x search": (["objective", "algo"], ["objective", "algo"]),
}


@dataclass(frozen=True)
class Scenario:
    """True components by name: those of FIXED, `draw` and `rest`.

    The draws of objective o0 have `noisy` times the variance of the others. If `shared`, a draw has the same effect
    in all strata and under all objectives that use its samples; otherwise all effects are independent.
    """

    components: Mapping[str, float]
    noisy: float = 1.0
    shared: bool = True
    of_losses: bool = False
    draws: int = 3
    cells: pd.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        cells = frame(OBJECTIVES, 2, self.draws, 7, models=("a", "b"), ks=(3, 6))
        cells.loc[cells["objective"] == "o3", "calibration"] += " items"
        object.__setattr__(self, "cells", cells)

    @property
    def by(self) -> list[str]:
        """The columns of a stratum."""
        return [*STRATUM, "objective"] if self.of_losses else STRATUM

    def study(self, seed: int) -> Any:
        """The outcomes (cells,) of one simulated study."""
        rng = np.random.default_rng(seed)
        y = np.zeros(len(self.cells))
        for name, (levels, zero) in FIXED.items():
            if size := self.components.get(name, 0.0):
                y += np.sqrt(size) * _exact(self.cells, self.by, levels, zero, rng)
        return y + self._drawn(rng) + np.sqrt(self.components["rest"]) * rng.normal(size=len(y))

    def _drawn(self, rng: np.random.Generator) -> Any:
        own = [] if self.shared else [*STRATUM, "objective"]
        level = labels(self.cells, ["calibration", "draw", *own])
        effect = rng.normal(size=level.max() + 1)[level]
        variance = np.where(self.cells["objective"] == "o0", self.noisy, 1.0)
        return np.sqrt(self.components["draw"] * variance / variance.mean()) * effect

    def truth(self) -> dict[str, float]:
        """The true shares and ratios."""
        whole = sum(self.components.values())
        share = {name: self.components.get(name, 0.0) / whole for name in (*FIXED, "draw", "rest")}
        calibration = share["objective"] + share["data"] + share["draw"]
        interaction = share["objective x search"] + share["rest"]
        search = share["search"]
        plain = calibration / search if search else float("inf")
        both = (calibration + interaction) / (search + interaction)
        known = {"calibration": calibration, "search": search, "interaction": interaction}
        known |= {"draw": share["draw"], "ratio": plain, "ratio with interaction": both}
        if self.of_losses:
            return known
        objective = share["objective"]
        against = (objective + interaction) / (search + interaction)
        return known | {
            "objective": objective, "objective : search": against, "objective : draw": objective / share["draw"],
        }  # fmt: skip


def _exact(cells: pd.DataFrame, by: Sequence[str], levels: Sequence[str], zero: Sequence[str], rng: Any) -> Any:
    """Random effects (cells,) that sum to zero along `zero` and have variance 1 (ddof 1) in each stratum."""
    effects = np.zeros(len(cells))
    for rows in strata(cells, by):
        part = cells.iloc[rows]
        level = labels(part, levels)
        values = pd.Series(rng.normal(size=level.max() + 1)[level])
        for column in zero:
            others = [name for name in levels if name != column]
            values -= values.groupby(labels(part, others)).transform("mean")
        df = _degrees(part, levels, zero)
        per_level = values.groupby(level).first()
        effects[rows] = values / np.sqrt((per_level**2).sum() / df) if df else 0.0
    return effects


def _degrees(part: pd.DataFrame, levels: Sequence[str], zero: Sequence[str]) -> int:
    """The number of effects that are free if they add up to zero along the columns `zero`."""
    number = {name: part.groupby("objective")[name].nunique().max() if name == "calibration" else part[name].nunique()
              for name in levels}  # fmt: skip
    return int(np.prod([n - (name in zero) for name, n in number.items()]))


def estimates(shares: Shares) -> dict[str, IntervalEstimate]:
    """The estimates of a study, by the names of `Scenario.truth`."""
    rows = shares.sources.set_index("source")[["share", "low", "high"]]
    named = {"draw": "draw (seed)", "objective": "objective"}
    return {
        **shares.parts,
        **{name: IntervalEstimate(*map(float, rows.loc[source])) for name, source in named.items()},
        "ratio": shares.ratio,
        "ratio with interaction": shares.total_ratio,
        "objective : search": shares.objective_ratio,
        "objective : draw": shares.objective_draw,
    }


@dataclass(frozen=True)
class Coverage:
    """For one quantity: its true value, how often its interval covers it, and the mean and median estimate."""

    truth: float
    covered: float
    mean: float
    median: float


def coverage(scenario: Scenario, studies: int, resamples: int = 299) -> dict[str, Coverage]:
    """How often the intervals of simulated studies cover the truth."""
    design, truth = Design(scenario.cells, scenario.by), scenario.truth()
    found: dict[str, list[IntervalEstimate]] = {name: [] for name in truth}
    for seed in range(studies):
        y = scenario.study(seed)
        of = [of_values(y[rows]) for rows in design.rows]
        every = estimates(design.shares(of, resamples, seed))
        for name, estimate in every.items():
            if name in truth:
                found[name].append(estimate)
    return {
        name: Coverage(
            truth[name],
            float(np.mean([e.low <= truth[name] + 1e-12 and truth[name] <= e.high + 1e-12 for e in of])),
            float(np.mean([e.value for e in of])),
            float(np.nanmedian([e.value for e in of])),
        )
        for name, of in found.items()
    }


SCENARIOS = {
    "loss": Scenario({"data": 0.13, "draw": 0.44, "search": 0.25, "rest": 0.18}, of_losses=True),
    "loss, independent strata": Scenario(
        {"data": 0.13, "draw": 0.44, "search": 0.25, "rest": 0.18}, of_losses=True, shared=False
    ),
    "search equals calibration (loss)": Scenario(
        {"data": 0.1, "draw": 0.3, "search": 0.4, "rest": 0.2}, of_losses=True
    ),
    "search equals calibration": Scenario(
        {"objective": 0.1, "data": 0.05, "draw": 0.15, "search": 0.3, "objective x search": 0.1, "rest": 0.3}
    ),
    "masks": Scenario(
        {"objective": 0.37, "data": 0.05, "draw": 0.24, "search": 0.01, "objective x search": 0.03, "rest": 0.3}
    ),
    "one objective 100 times noisier": Scenario(
        {"objective": 0.37, "data": 0.05, "draw": 0.24, "search": 0.05, "objective x search": 0.03, "rest": 0.26},
        noisy=100.0,
    ),
    "null search": Scenario({"objective": 0.37, "data": 0.05, "draw": 0.24, "rest": 0.34}),
    "null objective": Scenario({"draw": 0.5, "search": 0.1, "objective x search": 0.05, "rest": 0.35}),
}  # fmt: skip
