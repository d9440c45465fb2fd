"""Shares and ratios of variance components with their intervals, as figure 5 and the report show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .solver import Solver
from .sources import CALIBRATION, INTERACTION, SEARCH


@dataclass(frozen=True)
class IntervalEstimate:
    """A number with its 95 percent interval; `low` and `high` are NaN if there is no interval."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class Shares:
    """The variance of one outcome, divided among its sources.

    `sources` has a row for each source: its df, its component, and its share of the total with an interval. `parts`
    has the shares of calibration, search and their interaction. `ratio` is calibration divided by search;
    `total_ratio` is this ratio after the interaction is added to numerator and denominator. `note` says what
    could not be computed, and why.
    """

    sources: pd.DataFrame
    parts: Mapping[str, IntervalEstimate]
    ratio: IntervalEstimate
    total_ratio: IntervalEstimate
    cells: int
    draws: int
    note: str = ""


def report(
    observed: NDArray[np.float64],
    plausible: NDArray[np.float64] | None,
    solver: Solver,
    cells: int,
    draws: int,
    note: str,
) -> Shares:
    """Shares of the components. They have intervals if `plausible` true values (resamples, sources) are given."""
    groups = {"calibration": CALIBRATION, "search": SEARCH, "interaction": INTERACTION}
    total = observed.sum()

    def share(names: Sequence[str]) -> IntervalEstimate:
        return _estimate(
            solver.of(observed, names) / total,
            None if plausible is None else solver.of(plausible, names) / total,
        )

    rows = []
    for name, df in solver.df.items():
        e = share([name]) if df else IntervalEstimate(float("nan"))
        component = float(solver.of(observed, [name])) if df else float("nan")
        rows.append([name, df, component, e.value, e.low, e.high])
    sources = pd.DataFrame(rows, columns=["source", "df", "component", "share", "low", "high"])
    parts = {name: share(members) for name, members in groups.items()}
    ratios = [_ratio(solver, observed, plausible, extra) for extra in ((), INTERACTION)]
    return Shares(sources, parts, ratios[0], ratios[1], cells, draws, note)


def _estimate(value: NDArray[np.float64], plausible: NDArray[np.float64] | None) -> IntervalEstimate:
    if plausible is None:
        return IntervalEstimate(float(value))
    low, high = np.quantile(plausible, [0.025, 0.975])
    return IntervalEstimate(float(value), float(low), max(0.0, float(high)))  # a true share is at least 0


def _ratio(
    solver: Solver, observed: NDArray[np.float64], plausible: NDArray[np.float64] | None, extra: Sequence[str]
) -> IntervalEstimate:
    """Calibration divided by search. It is infinite if only calibration is above zero, and NaN if neither is."""

    def ratio(components: NDArray[np.float64]) -> NDArray[np.float64]:
        both = [np.maximum(solver.of(components, (*group, *extra)), 0.0) for group in (CALIBRATION, SEARCH)]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(both[0] / both[1])

    if plausible is None:
        return IntervalEstimate(float(ratio(observed)))
    values = ratio(plausible)
    unknown = np.isnan(values)  # 0 / 0: both variances are within noise, so the ratio can have any value
    if unknown.mean() > 0.5:
        return IntervalEstimate(float(ratio(observed)))
    low = np.sort(np.where(unknown, 0.0, values))[int(0.025 * (len(values) - 1))]
    high = np.sort(np.where(unknown, np.inf, values))[int(np.ceil(0.975 * (len(values) - 1)))]
    return IntervalEstimate(float(ratio(observed)), float(low), float(high))


def refused(cells: int, draws: int, note: str) -> Shares:
    """Shares that are all NaN, with the reason in `note`."""
    nothing = IntervalEstimate(float("nan"))
    empty = pd.DataFrame(columns=["source", "df", "component", "share", "low", "high"])
    parts = dict.fromkeys(("calibration", "search", "interaction"), nothing)
    return Shares(empty, parts, nothing, nothing, cells, draws, note)
