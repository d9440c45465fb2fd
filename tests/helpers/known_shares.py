"""Scenarios on the design of the archived study, and how often intervals cover their known shares.

Four strata (two models, two sizes), four objectives, two data sets each, three draws, seven algorithms. Three
objectives share their texts, the fourth has items. Losses have one stratum per objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from analysis.stats.components import DRAWN, RESIDUAL, Design, IntervalEstimate, Shares
from analysis.stats.grid import DRAW, SETTING, STRATUM
from analysis.stats.simulated import Scenario
from tests.helpers.analysis_grid import frame

DATA, SEARCH, BOTH = "calibration data", "algorithm", "objective x algorithm"


@cache
def archived_design(draws: int = 3, of_losses: bool = False) -> Design:
    """The design of the archived study; `of_losses`: of its losses."""
    cells = frame(objectives=4, data=2, draws=draws, algos=7, models=("a", "b"), ks=(3, 6))
    items = cells["calibration"].mask(cells["objective"] == "o3", "item set " + cells["calibration"])
    return Design(cells.assign(calibration=items), [*STRATUM, "objective"] if of_losses else STRATUM)


def scenario(
    components: Mapping[str, float],
    draws: int = 3,
    of_losses: bool = False,
    shared: bool = True,
    noisy: float = 1.0,
) -> Scenario:
    """A scenario on this design. If not `shared`, a draw has another effect in each stratum and under each objective.

    The draws of objective o0 have `noisy` times the variance of the others.
    """
    same_draw = DRAW if shared else [*STRATUM, *SETTING]
    return Scenario(archived_design(draws, of_losses), components, same_draw, {DRAWN: {"o0": noisy}})


def truth(of: Scenario) -> dict[str, float]:
    """The true shares and ratios."""
    whole = sum(of.components.values())
    every = ("objective", DATA, SEARCH, BOTH, DRAWN, RESIDUAL)
    share = {name: of.components.get(name, 0.0) / whole for name in every}
    calibration = share["objective"] + share[DATA] + share[DRAWN]
    search, interaction = share[SEARCH], share[BOTH] + share[RESIDUAL]
    plain = calibration / search if search else float("inf")
    both = (calibration + interaction) / (search + interaction)
    known = {"calibration": calibration, "search": search, "interaction": interaction}
    known |= {"draw": share[DRAWN], "ratio": plain, "ratio with interaction": both}
    if not of.design.strata[0].df["objective"]:
        return known
    objective = share["objective"]
    against = (objective + interaction) / (search + interaction)
    return known | {
        "objective": objective, "objective : search": against, "objective : draw": objective / share[DRAWN],
    }  # fmt: skip


def estimates(shares: Shares) -> dict[str, IntervalEstimate]:
    """The estimates of a study, by the names of `truth`."""
    rows = shares.sources.set_index("source")[["share", "low", "high"]]
    named = {"draw": DRAWN, "objective": "objective"}
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


def coverage(of: Scenario, studies: int, resamples: int = 299) -> dict[str, Coverage]:
    """How often the intervals of simulated studies cover the truth."""
    found: dict[str, list[IntervalEstimate]] = {name: [] for name in truth(of)}
    for seed in range(studies):
        every = estimates(of.shares(seed, resamples))
        for name, estimate in every.items():
            if name in found:
                found[name].append(estimate)
    return {name: _coverage(true, found[name]) for name, true in truth(of).items()}


def _coverage(true: float, found: list[IntervalEstimate]) -> Coverage:
    covered = [e.low <= true + 1e-12 and true <= e.high + 1e-12 for e in found]
    values = [e.value for e in found]
    return Coverage(true, float(np.mean(covered)), float(np.mean(values)), float(np.nanmedian(values)))


LOSS = {DATA: 0.13, DRAWN: 0.44, SEARCH: 0.25, RESIDUAL: 0.18}
MASKS = {"objective": 0.37, DATA: 0.05, DRAWN: 0.24, SEARCH: 0.01, BOTH: 0.03, RESIDUAL: 0.3}
NULL_OBJECTIVE = {DRAWN: 0.5, SEARCH: 0.1, BOTH: 0.05, RESIDUAL: 0.35}
SCENARIOS = {
    "loss": scenario(LOSS, of_losses=True),
    "loss, independent strata": scenario(LOSS, of_losses=True, shared=False),
    "search equals calibration (loss)": scenario(
        {DATA: 0.1, DRAWN: 0.3, SEARCH: 0.4, RESIDUAL: 0.2}, of_losses=True
    ),
    "search equals calibration": scenario(
        {"objective": 0.1, DATA: 0.05, DRAWN: 0.15, SEARCH: 0.3, BOTH: 0.1, RESIDUAL: 0.3}
    ),
    "masks": scenario(MASKS),
    "one objective 100 times noisier": scenario({**MASKS, SEARCH: 0.05, RESIDUAL: 0.26}, noisy=100.0),
    "null search": scenario({"objective": 0.37, DATA: 0.05, DRAWN: 0.24, RESIDUAL: 0.34}),
    "null objective": scenario(NULL_OBJECTIVE),
    "large interaction": scenario({"objective": 0.02, DRAWN: 0.03, SEARCH: 0.05, BOTH: 0.05, RESIDUAL: 0.85}),
}
