"""The paper's claim as numbers: how much of the variance is calibration, how much is search.

Sums of squares grow with the number of levels even where nothing has an effect. So each source gets a
variance component: its mean square less what the noise of the draws adds to it, per cell. In matrices, with
Q_j a basis of what source j adds to those that do not contain it, and Z_i the indicators of source i,

    E[SS_j] = s_j^2 tr(Q_j' Z_j Z_j' Q_j) + sum over noise i of sigma_i^2 tr(Q_j' Z_i Z_i' Q_j),

where noise is the draw and the residual. These equations are solved for s_j^2 and sigma_i^2 (Searle, Casella
and McCulloch 1992, chapter 5): no balance is needed, the estimates are unbiased, and they may come out below
zero where there is nothing. s_j^2 is the variance (ddof 1) of the effects of the levels that were studied.

Intervals: objectives, data, algorithms, models and ratios are the ones studied; what is random is the draw
of the calibration samples. The wild cluster bootstrap (Cameron, Gelbach and Miller 2008; weights of Webb
2014) multiplies each draw's deviations by one random weight, in all cells of that draw together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.stats import gram
from analysis.stats.gram import Matrix
from analysis.stats.grid import DRAW, SETTING, STRATUM, indicator, labels
from analysis.stats.sources import (
    CALIBRATION,
    DRAWN,
    INTERACTION,
    RESIDUAL,
    SEARCH,
    SOURCES,
    adjusted,
    strata,
)

WEBB = np.sqrt([0.5, 1.0, 1.5])  # mean square 1; with both signs, six values
CLUSTERS = 6  # draws below which no interval is given
COLUMNS = {source.name: source.columns for source in SOURCES}


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 percent interval; `low` and `high` are NaN where it is refused."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class Shares:
    """Where the variance of one outcome comes from.

    `sources` has a row for each source: df, component and its share of the total with interval. `parts` has
    the shares of calibration, search and their interaction; `ratio` is calibration over search, `total_ratio`
    the same with the interaction counted on both sides. `note` says what was refused, and why.
    """

    sources: pd.DataFrame
    parts: Mapping[str, Estimate]
    ratio: Estimate
    total_ratio: Estimate
    cells: int
    draws: int
    note: str = ""


@dataclass(frozen=True)
class _Stratum:
    """One stratum: bases of the sources, coordinates (n, p) with signs, their part that draws do not change."""

    bases: Mapping[str, Matrix]
    x: Matrix
    signs: Matrix
    panel: Matrix
    deviation: Matrix
    cluster: NDArray[np.int64]

    def squares(self, x: Matrix) -> dict[str, float]:
        """The sum of squares of each source for coordinates x."""
        return {name: float(((q.T @ x) ** 2).sum(0) @ self.signs) for name, q in self.bases.items()}


def shares(
    frame: pd.DataFrame,
    grams: Sequence[Matrix],
    by: Sequence[str] = STRATUM,
    resamples: int = 999,
    seed: int = 0,
) -> Shares:
    """Variance components of one outcome. `grams` are those of `variance.grams`, by the same strata."""
    rows_of = strata(frame, by)
    cluster = labels(frame, DRAW)
    parts = [_stratum(frame.iloc[r], g, cluster[r]) for r, g in zip(rows_of, grams, strict=True)]
    solver = _Solver([(frame.iloc[rows], part.bases) for rows, part in zip(rows_of, parts, strict=True)])
    draws = len(np.unique(cluster))
    if note := solver.refusal():
        return _refused(len(frame), draws, note)
    found = solver(_sum([part.squares(part.x) for part in parts]))
    if note := _no_interval(frame, by, draws):
        return _report(found, None, solver, len(frame), draws, note)
    rng = np.random.default_rng(seed)
    drawn = np.array([solver(_sum(_resampled(parts, draws, rng))) for _ in range(resamples)])
    # The root R* = estimate* - E*[estimate*] stands for R = estimate - truth: Hall's basic interval.
    return _report(found, found - (drawn - drawn.mean(axis=0)), solver, len(frame), draws, "")


def _stratum(part: pd.DataFrame, g: Matrix, cluster: NDArray[np.int64]) -> _Stratum:
    x, signs = gram.coordinates(g)
    same = indicator(labels(part, [*SETTING[:-1], "algo"]))  # cells that differ in the draw only
    count = same.sum(0)
    panel = same @ ((same.T @ x) / count[:, None])
    # A mean of m draws leaves deviations that are too small by (m - 1) / m.
    inflate = np.sqrt(count / np.maximum(count - 1, 1)) @ same.T
    return _Stratum(adjusted(part), x, signs, panel, (x - panel) * inflate[:, None], cluster)


def _resampled(parts: Sequence[_Stratum], draws: int, rng: np.random.Generator) -> list[dict[str, float]]:
    weights = rng.choice(np.concatenate([WEBB, -WEBB]), size=draws)
    return [part.squares(part.panel + weights[part.cluster][:, None] * part.deviation) for part in parts]


def _sum(squares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(s[name] for s in squares) for name in squares[0]}


class _Solver:
    """From sums of squares to variance components."""

    def __init__(self, parts: Sequence[tuple[pd.DataFrame, Mapping[str, Matrix]]]) -> None:
        every = (*COLUMNS, RESIDUAL)
        self.df = {name: sum(bases[name].shape[1] for _, bases in parts) for name in every}
        self.names = [name for name in every if self.df[name]]
        self.coefficients = np.zeros((len(self.names), len(self.names)))
        for part, bases in parts:
            for i, name in enumerate(self.names):
                z = np.eye(len(part)) if name == RESIDUAL else indicator(labels(part, COLUMNS[name]))
                for j, other in enumerate(self.names):
                    if i == j or name in (DRAWN, RESIDUAL):
                        self.coefficients[j, i] += float(((bases[other].T @ z) ** 2).sum())

    def __call__(self, squares: Mapping[str, float]) -> NDArray[np.float64]:
        return np.linalg.solve(self.coefficients, np.array([squares[name] for name in self.names]))

    def refusal(self) -> str:
        """Why there are too few cells for any component; empty if there are enough."""
        if not any(self.df[name] for name in CALIBRATION):
            return "one calibration only: nothing to hold the search against"
        if not self.df["algorithm"]:
            return "one algorithm only: nothing to hold the calibration against"
        if self.df[RESIDUAL] < 3:
            return f"{self.df[RESIDUAL]} degrees of freedom are left for noise; at least 3 are needed"
        return ""

    def of(self, components: NDArray[np.float64], group: Sequence[str]) -> NDArray[np.float64]:
        """The summed components of some sources, along the last axis."""
        chosen = [i for i, name in enumerate(self.names) if name in group]
        return np.asarray(components[..., chosen].sum(-1))


def _no_interval(frame: pd.DataFrame, by: Sequence[str], draws: int) -> str:
    """Why there is no interval; empty if there can be one."""
    repeats = frame.groupby([*by, *SETTING[:-1], "algo"], dropna=False)["draw"].nunique()
    repeated = float((repeats > 1).mean())
    if repeated < 0.5:
        return "no interval: most configurations were drawn once, so the noise of a draw is unknown"
    if draws < CLUSTERS:
        return f"no interval: {draws} draws; at least {CLUSTERS} are needed"
    return ""


def _report(
    found: NDArray[np.float64],
    plausible: NDArray[np.float64] | None,
    solver: _Solver,
    cells: int,
    draws: int,
    note: str,
) -> Shares:
    groups = {"calibration": CALIBRATION, "search": SEARCH, "interaction": INTERACTION}
    total = found.sum()

    def share(names: Sequence[str]) -> Estimate:
        return _estimate(
            solver.of(found, names) / total,
            None if plausible is None else solver.of(plausible, names) / total,
        )

    rows = []
    for name, df in solver.df.items():
        e = share([name]) if df else Estimate(float("nan"))
        component = float(solver.of(found, [name])) if df else float("nan")
        rows.append([name, df, component, e.value, e.low, e.high])
    sources = pd.DataFrame(rows, columns=["source", "df", "component", "share", "low", "high"])
    parts = {name: share(members) for name, members in groups.items()}
    ratios = [_ratio(solver, found, plausible, extra) for extra in ((), INTERACTION)]
    return Shares(sources, parts, ratios[0], ratios[1], cells, draws, note)


def _estimate(value: NDArray[np.float64], plausible: NDArray[np.float64] | None) -> Estimate:
    if plausible is None:
        return Estimate(float(value))
    low, high = np.quantile(plausible, [0.025, 0.975])
    return Estimate(float(value), float(low), max(0.0, float(high)))  # the truth is not below zero


def _ratio(
    solver: _Solver, found: NDArray[np.float64], plausible: NDArray[np.float64] | None, extra: Sequence[str]
) -> Estimate:
    """Calibration over search; infinite where the search is not above zero, NaN where neither is."""

    def ratio(components: NDArray[np.float64]) -> NDArray[np.float64]:
        both = [np.maximum(solver.of(components, (*group, *extra)), 0.0) for group in (CALIBRATION, SEARCH)]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(both[0] / both[1])

    if plausible is None:
        return Estimate(float(ratio(found)))
    values = ratio(plausible)
    values = np.sort(values[~np.isnan(values)])
    if len(values) < 0.5 * len(plausible):  # mostly 0 / 0: neither stands out from noise
        return Estimate(float(ratio(found)))
    low, high = values[[int(0.025 * (len(values) - 1)), int(np.ceil(0.975 * (len(values) - 1)))]]
    return Estimate(float(ratio(found)), float(low), float(high))


def _refused(cells: int, draws: int, note: str) -> Shares:
    nothing = Estimate(float("nan"))
    empty = pd.DataFrame(columns=["source", "df", "component", "share", "low", "high"])
    parts = dict.fromkeys(("calibration", "search", "interaction"), nothing)
    return Shares(empty, parts, nothing, nothing, cells, draws, note)
