"""Simulated studies whose shares are known, on the design of the archived study.

Four strata (two models, two sizes), four objectives, two data sets each, three draws, seven algorithms. Three
objectives share their texts, the fourth has items. Fixed effects have exactly the chosen variance, so only draws and
the rest differ between studies of the same scenario. `of_losses` has one stratum per objective, as losses have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats.components import Design
from analysis.stats.coordinates import of_values
from analysis.stats.estimates import IntervalEstimate, Shares
from analysis.stats.grid import STRATUM
from tests.helpers.analysis_grid import frame

SHAPE = (4, 2, 7)  # objectives, data sets of each, algorithms
# What explains each part: the axes (stratum, objective, data, draw, algorithm) along which its effects differ and
# add up to zero. All effects also differ between strata.
FIXED: Mapping[str, tuple[int, ...]] = {
    "objective": (1,),
    "data": (2,),
    "search": (4,),
    "objective x search": (1, 4),
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

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The cells of every study."""
        objectives, data, algos = SHAPE
        cells = frame(objectives, data, self.draws, algos, models=("a", "b"), ks=(3, 6))
        return cells.assign(
            calibration=cells["calibration"].mask(
                cells["objective"] == "o3", "item set " + cells["calibration"]
            )
        )

    @property
    def by(self) -> list[str]:
        """The columns of a stratum."""
        return [*STRATUM, "objective"] if self.of_losses else STRATUM

    def study(self, seed: int) -> Any:
        """The outcomes (cells,) of one simulated study, in the order of the cells."""
        rng = np.random.default_rng(seed)
        objectives, data, algos = SHAPE
        shape = (4, objectives, data, self.draws, algos)
        y = self._drawn(rng, shape) + np.sqrt(self.components["rest"]) * rng.normal(size=shape)
        for name, axes in FIXED.items():
            if size := self.components.get(name, 0.0):
                y = y + np.sqrt(size) * _exact(rng, shape, axes, self.of_losses)
        return y.ravel()

    def _drawn(self, rng: np.random.Generator, shape: Sequence[int]) -> Any:
        strata_, objectives, data, draws, _ = shape
        if self.shared:
            texts, items = rng.normal(size=(2, 1, 1, data, draws, 1))
            effect = np.concatenate([np.repeat(texts, objectives - 1, axis=1), items], axis=1)
        else:
            effect = rng.normal(size=(strata_, objectives, data, draws, 1))
        variance = np.where(np.arange(objectives) == 0, self.noisy, 1.0).reshape(1, -1, 1, 1, 1)
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


def _exact(rng: np.random.Generator, shape: Sequence[int], axes: Sequence[int], of_losses: bool) -> Any:
    """Random effects that add up to zero along `axes` and have variance 1 (ddof 1) in each stratum."""
    apart = {0, 1} if of_losses else {0}  # the axes that number the strata
    nested = {1} if axes == (2,) else set()  # data are nested in objectives
    own = [n if i in {*axes, *apart, *nested} else 1 for i, n in enumerate(shape)]
    effect = rng.normal(size=own)
    for axis in axes:
        effect = effect - effect.mean(axis=axis, keepdims=True)
    over = tuple(i for i in range(len(shape)) if i not in apart)
    free = np.prod([shape[axis] - 1 for axis in axes]) * np.prod([own[i] for i in nested - apart])
    return effect / np.sqrt((effect**2).sum(axis=over, keepdims=True) / free)


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
