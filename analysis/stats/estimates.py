"""Shares and ratios of variance components with their intervals, as figure 5 and the report show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .coordinates import Matrix
from .plausible import PlausibleComponents
from .solver import EVERY
from .sources import CALIBRATION, DRAWN, INTERACTION, SEARCH

NAN = float("nan")
OBJECTIVE = ("objective",)
TAIL = 0.02  # on each side; with 0.025, intervals that claim 95 percent covered 93 percent in some simulated studies


@dataclass(frozen=True)
class IntervalEstimate:
    """A number with its 95 percent interval; `low` and `high` are NaN if there is no interval.

    A ratio whose denominator is not above zero has no value. If its interval has no upper end, `high` is infinite.
    """

    value: float
    low: float = NAN
    high: float = NAN

    def leaves_out(self, value: float) -> bool:
        """Whether the interval does not contain the value; False if there is no interval."""
        return self.low > value or self.high < value


@dataclass(frozen=True)
class Shares:
    """The variance of one outcome, divided among its sources.

    `sources` has a row for each source: its df, its component (mean over strata), and its share with an interval.
    `parts` has the shares of calibration, search and their interaction. Shares and their intervals are cut off at 0,
    so they can add up to more than 1. Four ratios: `total_ratio` is calibration : search with the interaction on both
    sides, `objective_ratio` is objective : search in the same way, `objective_draw` is objective : draw, and `ratio`
    is calibration : search without the interaction. `note` says what could not be computed, and why.
    """

    sources: pd.DataFrame
    parts: Mapping[str, IntervalEstimate]
    ratio: IntervalEstimate
    total_ratio: IntervalEstimate
    cells: int
    draws: int
    note: str = ""
    objective_ratio: IntervalEstimate = IntervalEstimate(NAN)
    objective_draw: IntervalEstimate = IntervalEstimate(NAN)


def shares_of(components: Matrix) -> Matrix:
    """Shares (..., sources) of components (strata, ..., sources): of the sum in each stratum, averaged over strata.

    Estimates of components can be negative. The sum is then at least the largest of calibration, search and
    interaction, so that no share is above 1. If nothing is above zero, all shares of the stratum are 0.
    """
    groups = [_sum(components, names) for names in (CALIBRATION, SEARCH, INTERACTION)]
    whole = np.maximum(np.maximum.reduce(groups), components.sum(axis=-1))[..., None]
    shares = np.where(whole > 0, components / np.where(whole > 0, whole, 1.0), 0.0)
    return np.asarray(np.clip(shares, -1.0, 1.0).mean(axis=0))


def report(
    estimate: Matrix,
    likely: Sequence[PlausibleComponents] | None,
    df: Mapping[str, int],
    cells: int,
    draws: int,
    note: str,
) -> Shares:
    """Shares of components (strata, sources), with intervals if plausible components of each stratum are given."""
    found = _Likely.of(estimate, likely)
    rows = []
    for i, name in enumerate(EVERY):
        e = found.share([name]) if df[name] else IntervalEstimate(NAN)
        component = float(estimate[:, i].mean()) if df[name] else NAN
        rows.append([name, df[name], component, e.value, e.low, e.high])
    sources = pd.DataFrame(rows, columns=["source", "df", "component", "share", "low", "high"])
    groups = {"calibration": CALIBRATION, "search": SEARCH, "interaction": INTERACTION}
    parts = {name: found.share(members) for name, members in groups.items()}
    plain = found.ratio([CALIBRATION], [SEARCH])
    both = found.ratio([CALIBRATION, INTERACTION], [SEARCH, INTERACTION])
    if not df["objective"]:
        return Shares(sources, parts, plain, both, cells, draws, note)
    objective = found.ratio([OBJECTIVE, INTERACTION], [SEARCH, INTERACTION])
    against_draw = found.ratio([OBJECTIVE], [[DRAWN]])
    return Shares(sources, parts, plain, both, cells, draws, note, objective, against_draw)


@dataclass(frozen=True)
class _Likely:
    """Shares (sources,), and sets of plausible true shares (resamples, sources).

    Shares are ratios of estimates, so they are biased. The mean difference between the shares of resamples and their
    true ones estimates the bias, which is subtracted. An interval contains the plausible values with and without
    this correction, because each of the two covers too little in some simulated study (docs/statistics.md).
    """

    value: Matrix
    sets: tuple[Matrix, ...]

    @classmethod
    def of(cls, estimate: Matrix, likely: Sequence[PlausibleComponents] | None) -> _Likely:
        value = shares_of(estimate)
        if likely is None:
            return cls(value, ())
        plausible = shares_of(np.array([each.plausible for each in likely]))
        drawn = shares_of(np.array([each.drawn for each in likely])).mean(axis=0)
        bias = drawn - shares_of(np.array([each.centre for each in likely]))
        return cls(value - bias, (plausible, plausible - bias))

    def share(self, names: Sequence[str]) -> IntervalEstimate:
        """The share of some sources together, cut off at 0 and 1."""
        return self._interval(lambda shares: np.clip(_sum(shares, names), 0.0, 1.0))

    def ratio(self, above: Sequence[Sequence[str]], below: Sequence[Sequence[str]]) -> IntervalEstimate:
        """The shares of some parts divided by those of others. 0 / 0 widens the interval on both sides.

        A part is several sources together. It is cut off at 0 before parts are added: otherwise the interaction could
        make up for a negative share of the search, and calibration : search could be above 1 without a calibration.
        """

        def divided(shares: Matrix) -> Matrix:
            both = [sum(np.maximum(_sum(shares, names), 0.0) for names in parts) for parts in (above, below)]
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.asarray(both[0] / both[1])

        e = self._interval(divided)
        return e if np.isfinite(e.value) else IntervalEstimate(NAN, e.low, e.high)

    def _interval(self, of: Callable[[Matrix], Matrix]) -> IntervalEstimate:
        value = float(of(self.value))
        if not self.sets:
            return IntervalEstimate(value)
        ends = [_ends(of(shares)) for shares in self.sets]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        if np.isfinite(value):
            low, high = min(low, value), max(high, value)
        return IntervalEstimate(value, low, high)


def _ends(values: Matrix) -> tuple[float, float]:
    """The ends of an interval, from plausible values (resamples,); NaN counts as any value."""
    unknown, last = np.isnan(values), len(values) - 1
    low = np.sort(np.where(unknown, 0.0, values))[int(TAIL * last)]
    high = np.sort(np.where(unknown, np.inf, values))[int(np.ceil((1 - TAIL) * last))]
    return float(low), float(high)


def _sum(values: Matrix, names: Sequence[str]) -> Matrix:
    """Add up the values (last axis) of some sources."""
    return np.asarray(values[..., [EVERY.index(name) for name in names]].sum(axis=-1))


def refused(cells: int, draws: int, note: str) -> Shares:
    """Shares that are all NaN, with the reason in `note`."""
    nothing = IntervalEstimate(NAN)
    empty = pd.DataFrame(columns=["source", "df", "component", "share", "low", "high"])
    parts = dict.fromkeys(("calibration", "search", "interaction"), nothing)
    return Shares(empty, parts, nothing, nothing, cells, draws, note)
