"""Variance components: how much of the variance is due to the calibration, and how much to the search.

The components of each stratum (one model and one k; for losses also one objective) are estimated from sums of
squares, and resampled studies give their plausible true values. A share is a component divided by the sum of all, and
shares are averaged over strata. So the unit of the outcome does not matter, and every stratum has equal weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from .grid import CONFIGURATION, DRAW, SETTING, STRATUM, Labels, indicator, labels, several_sizes
from .projections import Addition, Coordinates, Matrix, Subspace, Subspaces, spanned

NAN = float("nan")
SPREAD = 1e-12  # an outcome whose sum of squares is not above this has no spread
ROUNDING = 1e-10  # parts of the sum of squares below this are rounding errors


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
    `parts` has the shares of calibration, search and their interaction. Shares are cut off at 0, so their sum can be
    above 1. `ratio` is calibration : search; `total_ratio` (calibration : search) and `objective_ratio`
    (objective : search) have the interaction on both sides. `note` says what could not be computed, and why.
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


def shares(
    frame: pd.DataFrame,
    of: Sequence[Coordinates],
    by: Sequence[str] = STRATUM,
    resamples: int = 999,
    seed: int = 0,
    items: Matrix | None = None,
) -> Shares:
    """Variance components of one outcome. `of` has the coordinates of each stratum, in the order of `strata`.

    `items` (cells, items), if given, is the noise of each evaluated item, in the units of the outcome (`item_noise`).
    It is subtracted from the sums of squares, and items are resampled together with draws. Strata in which the
    outcome has no spread, or that have too few cells, are left out.
    """
    return Design(frame, by).shares(of, resamples, seed, items)


class Design:
    """The cells of a study with the equations of each stratum, prepared once for any number of outcomes."""

    def __init__(self, frame: pd.DataFrame, by: Sequence[str] = STRATUM) -> None:
        self.frame = frame
        self.strata = [Stratum(frame, rows) for rows in strata(frame, by)]
        self.no_interval = refusal(frame)
        self.draws = Draws(frame, by)

    def shares(
        self, of: Sequence[Coordinates], resamples: int = 999, seed: int = 0, items: Matrix | None = None
    ) -> Shares:
        """Variance components of one outcome; see the function `shares`."""
        used = [i for i, s in enumerate(self.strata) if not s.refusal and of[i].total > SPREAD]
        draws = count(self.frame)
        if not used:
            reasons = (stratum.refusal for stratum in self.strata)
            note = next(filter(None, reasons), "all cells of a stratum have the same outcome")
            return refused(len(self.frame), draws, note)
        known = [self.strata[i] for i in used]
        df = {name: sum(stratum.df[name] for stratum in known) for name in EVERY}
        cells = sum(len(stratum.rows) for stratum in known)
        observed = [self.strata[i].squares(of[i]) for i in used]
        noise = [stratum.squares_of_items(items) for stratum in known]
        if self.no_interval:
            solved = [s.solve(o - n) for s, o, n in zip(known, observed, noise, strict=True)]
            return report(np.array(solved), None, df, cells, draws, self.no_interval)
        moves = self.draws.moves(of, None if items is None else compressed(items, seed))
        weights = bootstrap_weights(moves[0].columns, resamples, seed)
        likely = [
            plausible(self.strata[i], moves[i], weights, o, n)
            for i, o, n in zip(used, observed, noise, strict=True)
        ]
        return report(np.array([each.estimate for each in likely]), likely, df, cells, draws, "")


# The sources of variation of a study: their levels, and the labels that each permutation test may exchange.

DRAWN = "draw (seed)"
RESIDUAL = "draw x algorithm, rest"


@dataclass(frozen=True)
class VarianceSource:
    """One source of variation: the columns that define its levels, and how its test permutes.

    `given` are the groups of columns that its test fits first. Under the null hypothesis, the labels in the column
    `moved` can be exchanged among units (equal values in `units`) of the same block (equal values in `blocks`). If
    `moved` is empty, no labels are exchangeable, and the test permutes residuals instead.
    """

    name: str
    columns: tuple[str, ...]
    given: tuple[tuple[str, ...], ...]
    moved: str = ""
    units: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()

    @property
    def apart(self) -> list[str]:
        """Columns that every group of `given` and the levels contain.

        Cells that differ in them share no level and no fitted value, so sums of squares can be computed apart.
        """
        every = [set(group) for group in (*self.given, self.columns)]
        return [column for column in self.columns if all(column in group for group in every)]


def _nested(name: str, i: int) -> VarianceSource:
    """Column i of the configuration within the columns before it.

    The test exchanges whole settings, like whole plots in a split-plot design. All algorithms and ratios of a setting
    stay together.
    """
    parents, column = tuple(CONFIGURATION[:i]), CONFIGURATION[i]
    given = (parents, ("algo",)) if parents else (("algo",),)
    return VarianceSource(name, (*parents, column), given, column, tuple(SETTING), parents)


PANEL = [*STRATUM, *CONFIGURATION, "algo"]  # cells with equal values in these columns differ only in the draw
_CELL, _SEARCHES = (*STRATUM, *SETTING, "algo"), (*CONFIGURATION, "algo")
SOURCES = (
    *(_nested(n, i) for i, n in enumerate(("objective", "calibration data", "samples", "length"))),
    VarianceSource(DRAWN, tuple(SETTING), (_SEARCHES,), "draw", _CELL, tuple(PANEL)),
    VarianceSource("algorithm", ("algo",), (tuple(SETTING),), "algo", _CELL, (*STRATUM, *SETTING)),
    VarianceSource("objective x algorithm", ("objective", "algo"), (tuple(SETTING), ("algo",))),
)
OBJECTIVE, SEARCH = ("objective",), ("algorithm",)
CALIBRATION = (*OBJECTIVE, "calibration data", "samples", "length", DRAWN)
INTERACTION = ("objective x algorithm", RESIDUAL)
COLUMNS_OF = {source.name: source.columns for source in SOURCES}
EVERY = (*COLUMNS_OF, RESIDUAL)
NOISE = (DRAWN, RESIDUAL)


def strata(frame: pd.DataFrame, by: Sequence[str] = STRATUM) -> list[Labels]:
    """The row numbers of each stratum."""
    stratum = labels(frame, by)
    return [np.flatnonzero(stratum == level) for level in np.unique(stratum)]


def sequential(spaces: Subspaces) -> dict[str, Addition]:
    """For one stratum, what each source adds to the sources before it, and the residual."""
    before: list[tuple[str, ...]] = []
    added = {}
    for source in SOURCES:
        added[source.name] = spaces.addition(source.columns, before)
        before.append(source.columns)
    return {**added, RESIDUAL: Addition(spaces.whole, spaces.of(before))}


def marginal(spaces: Subspaces, source: VarianceSource) -> Addition:
    """What a source explains beyond all sources that do not contain it (type II)."""
    others = [s.columns for s in SOURCES if not set(source.columns) <= set(s.columns)]
    return spaces.addition(source.columns, others)


def adjusted(spaces: Subspaces) -> dict[str, Addition]:
    """What each source of a stratum explains beyond the others, and the residual."""
    every = {source.name: marginal(spaces, source) for source in SOURCES}
    return {**every, RESIDUAL: Addition(spaces.whole, spaces.of([source.columns for source in SOURCES]))}


# From sums of squares to components.
#
# Sums of squares grow with the number of levels even if nothing has an effect. Let Q_j be a basis of what source j
# adds to the sources that do not contain it, and Z_i the indicators of source i. Then
#
#     E[SS_j] = s_j^2 tr(Q_j' Z_j Z_j' Q_j) + sum over noise i of sigma_i^2 tr(Q_j' Z_i Z_i' Q_j),
#
# where the noise sources i are the draw and the residual. These equations are solved for s_j^2 and sigma_i^2
# (Searle, Casella and McCulloch 1992, chapter 5). In a balanced grid, a component is (the mean square of the source
# - the mean square of its noise) / (the number of cells per level), but the grid need not be balanced. The
# estimates are unbiased, and can be negative if the true component is zero. s_j^2 is the variance (ddof 1) of the
# effects over the levels in the study.


class Stratum:
    """The equations of one stratum. `names` are the sources with levels to compare."""

    def __init__(self, frame: pd.DataFrame, rows: Labels) -> None:
        part = frame.iloc[rows]
        self.rows, self.added = rows, adjusted(Subspaces(part))
        self.df = {name: self.added[name].df for name in EVERY}
        self.names = [name for name in EVERY if self.df[name]]
        self.noise = np.array([name in NOISE for name in self.names])
        self.coefficients = np.zeros((len(self.names), len(self.names)))
        for i, name in enumerate(self.names):
            z = None if name == RESIDUAL else indicator(labels(part, COLUMNS_OF[name]))
            for j, other in enumerate(self.names):
                if i == j or name in NOISE:
                    # tr(Q'ZZ'Q); for the residual, Z is the identity.
                    added = self.added[other]
                    self.coefficients[j, i] = added.df if z is None else float((added.fit(z) ** 2).sum())

    @property
    def refusal(self) -> str:
        """Why no component can be computed; empty if the cells suffice."""
        if not any(self.df[name] for name in CALIBRATION):
            return "one calibration only: nothing to compare the search with"
        if not self.df["algorithm"]:
            return "one algorithm only: nothing to compare the calibration with"
        if self.df[RESIDUAL] < 3:
            return f"{self.df[RESIDUAL]} degrees of freedom are left for noise; at least 3 are needed"
        return ""

    def squares(self, of: Coordinates) -> Matrix:
        """The sums of squares (names,) that the sources explain."""
        return _rounded(np.array([self.added[name].squares(of) for name in self.names]), of)

    def squares_of_items(self, items: Matrix | None) -> Matrix:
        """The part (names,) of these sums that is expected from the noise of items (cells of the study, items)."""
        if items is None:
            return np.zeros(len(self.names))
        return self.squares(Coordinates(items[self.rows], np.ones(items.shape[1])))

    def solve(self, squares: Matrix) -> Matrix:
        """The components (..., sources) for sums of squares (..., names)."""
        return self.spread_out(np.asarray(np.linalg.solve(self.coefficients, np.asarray(squares).T).T))

    def expected_noise(self, components: Matrix) -> Matrix:
        """What draw and residual are expected to add to each sum of squares, for components (..., names)."""
        return np.asarray(components[..., self.noise] @ self.coefficients[:, self.noise].T)

    def spread_out(self, values: Matrix) -> Matrix:
        """Values (..., names) in the order of EVERY. Sources without levels to compare get 0."""
        whole = np.zeros((*values.shape[:-1], len(EVERY)))
        whole[..., [EVERY.index(name) for name in self.names]] = values
        return whole


def _rounded(squares: Matrix, of: Coordinates) -> Matrix:
    """Sums of squares, with 0 for rounding errors: if masks are equal, a source explains nothing."""
    return np.where(np.abs(squares) < ROUNDING * of.total, 0.0, squares)


# Resampled studies with new calibration draws, the only random factor of a study's design.
#
# Objectives, data, algorithms, models and ratios are fixed. A resample keeps the means over draws (the panel) and
# gives each draw a new deviation from them: a random combination, with normal weights, of the deviations of the
# draws of the same data. All cells of a draw share the weights, in all strata. So the resampled deviations have the
# covariance of the observed ones, whatever it is, and the mean squares of resamples vary as those of normal data
# with as many draws do. Weights of two or six values, as in a wild bootstrap, would keep the squares of the
# deviations and hide this variation.

CLUSTERS = 6  # with fewer draws, no interval is given
PARTNERS = 8  # a draw borrows from at most this number of draws, itself included
COLUMNS = 480  # about the largest number of weights; studies with more draws borrow from fewer partners


def count(frame: pd.DataFrame) -> int:
    """The number of draws."""
    return len(np.unique(labels(frame, DRAW)))


def refusal(frame: pd.DataFrame) -> str:
    """The reason why no interval can be computed; empty if an interval can be computed."""
    if reason := unknown_noise(frame):
        return f"no interval: {reason}"
    if (draws := count(frame)) < CLUSTERS:
        return f"no interval: {draws} draws; at least {CLUSTERS} are needed"
    return ""


def unknown_noise(frame: pd.DataFrame) -> str:
    """The reason why the noise of a draw cannot be estimated; empty if it can be estimated."""
    repeats = frame.groupby(PANEL, dropna=False)["draw"].nunique()
    if float((repeats > 1).mean()) < 0.5:
        return "most configurations were drawn once, so the noise of a draw is unknown"
    if several_sizes(frame):
        return "draws of several sizes contain each other; choose one with --only samples=N"
    return ""


@dataclass(frozen=True)
class Borrowed:
    """Entry e: cell row[e] receives weight[column[e]] * factor[e] times the deviation of cell donor[e]."""

    row: Labels
    donor: Labels
    column: Labels
    factor: Matrix
    columns: int

    def of(self, rows: Labels) -> Borrowed:
        """The entries of some cells (ascending), which are numbered anew. Their donors are among them."""
        kept = np.isin(self.row, rows)
        row, donor = (np.searchsorted(rows, cells[kept]) for cells in (self.row, self.donor))
        return replace(self, row=row, donor=donor, column=self.column[kept], factor=self.factor[kept])


def borrowed(frame: pd.DataFrame) -> Borrowed:
    """The donors of every cell: the same cell (PANEL) under other draws of the same data.

    The draws of the same data are put in a circle, and each borrows from itself and from the next ones. If cells
    are repeats, the first borrows from the first, and so on. The factor makes the variance of a resampled deviation
    that of one draw: with m draws, deviations from their mean are too small by the factor (m - 1) / m.
    """
    data = labels(frame, [name for name in DRAW if name != "draw"])
    cells = pd.DataFrame(
        {"row": range(len(frame)), "same": labels(frame, PANEL), "draw": labels(frame, DRAW)}
    )
    draws = cells[["draw"]].assign(data=data).drop_duplicates().sort_values("draw")
    draws["position"] = draws.groupby("data").cumcount()
    draws["size"] = draws.groupby("data")["draw"].transform("size")
    cells = cells.merge(draws, on="draw")
    alike = cells.groupby(["same", "draw"])
    cells["repeat"], cells["repeats"] = alike.cumcount(), alike["row"].transform("size")
    donors = cells[["same", "position", "repeat", "row"]].rename(columns={"row": "donor"})
    having = cells[["same", "position", "repeats"]].drop_duplicates()
    total = int(cells["draw"].max()) + 1
    partners = min(PARTNERS, max(2, COLUMNS // total), int(cells["size"].max()))
    entries = []
    for step in range(partners):
        asking = cells[cells["size"] > step].drop(columns="repeats")
        asking["position"] = (asking["position"] + step) % asking["size"]
        found = asking.merge(having, on=["same", "position"])
        found["repeat"] %= found["repeats"]
        found["column"] = found["draw"] * partners + step
        entries.append(found.merge(donors, on=["same", "position", "repeat"]))
    row, donor, column = (pd.concat(entries)[name].to_numpy(np.int64) for name in ("row", "donor", "column"))
    drawn = cells.groupby("same")["draw"].transform("nunique").to_numpy()
    received = np.bincount(row, minlength=len(frame))
    factor = np.sqrt(drawn / np.maximum(drawn - 1, 1) / np.maximum(received, 1))
    return Borrowed(row, donor, column, factor[row], total * partners)


class Draws:
    """The draws of a study's cells, prepared once for any number of outcomes."""

    def __init__(self, frame: pd.DataFrame, by: Sequence[str]) -> None:
        self.rows = strata(frame, by)
        donors = borrowed(frame)
        self._donors = [donors.of(rows) for rows in self.rows]
        self._panels = [spanned([labels(frame.iloc[rows], PANEL)]) for rows in self.rows]

    def moves(self, of: Sequence[Coordinates], items: Matrix | None = None) -> list[Moves]:
        """The moves of each stratum, in the order of `strata`. In all of them, a column is the same random weight.

        `items` (cells, columns), if given, are further moves: the noise of the evaluated items.
        """
        moves = []
        for rows, c, donors, same in zip(self.rows, of, self._donors, self._panels, strict=True):
            panel = same.fit(c.x)
            row, column, columns = donors.row, donors.column, donors.columns
            x = (c.x - panel)[donors.donor] * donors.factor[:, None]
            if items is not None:
                n, more = len(rows), items.shape[1]
                row = np.concatenate([row, np.repeat(np.arange(n), more)])
                column = np.concatenate([column, np.tile(np.arange(more), n) + columns])
                x, columns = np.vstack([x, items[rows].reshape(-1, 1)]), columns + more
            moves.append(Moves(c, panel, row, column, x, columns))
        return moves


@dataclass(frozen=True)
class Moves:
    """What resamples of one stratum are made of. A resample is `panel` (n, p) plus random moves.

    Entry e of the moves adds weight[column[e]] * x[e] to cell row[e]; x is (entries, p). There are `columns` weights.
    """

    observed: Coordinates
    panel: Matrix
    row: Labels
    column: Labels
    x: Matrix
    columns: int

    def added_form(self, added: Addition) -> Matrix:
        """The matrix B (columns + 1, columns + 1): a source explains w'Bw of a resample, with w = (weights, 1)."""
        return self._form(added.span) - self._form(added.after)

    def _form(self, span: Subspace) -> Matrix:
        """The form of what a span explains."""
        signs, width = self.observed.signs, self.columns + 1
        if self.panel.shape[1] == 1:
            along = span.along(self._matrix)
            return np.asarray(along.T @ along * signs[0])
        x = np.vstack([self.x, self.panel])
        row = np.concatenate([self.row, np.arange(len(self.panel))])
        column = np.concatenate([self.column, np.full(len(self.panel), self.columns)])
        # The part that the levels explain: x is summed for each pair of a level and a column.
        distinct, which = np.unique(span.levels[row] * width + column, return_inverse=True)
        level, at = np.divmod(distinct, width)
        sums = _summed(which.reshape(-1), len(distinct)) @ x / np.sqrt(span.counts)[level][:, None]
        dimensions = x.shape[1]
        rows = level[:, None] * dimensions + np.arange(dimensions)
        where = (rows.ravel(), np.repeat(at, dimensions))
        shape = (len(span.counts) * dimensions, width)
        plain = sparse.csr_array((sums.ravel(), where), shape=shape)
        signed = sparse.csr_array(((sums * signs).ravel(), where), shape=shape)
        of_levels = np.asarray((plain.T @ signed).toarray())
        # The part that the small basis explains.
        by_column, of_rest = _summed(column, width), np.zeros((width, width))
        for q in span.rest.T:
            sums = by_column @ (q[row][:, None] * x)
            of_rest += (sums * signs) @ sums.T
        return of_levels + of_rest

    @cached_property
    def _matrix(self) -> Matrix:
        """For numbers: a resample is this matrix (n, columns + 1) times (weights, 1)."""
        matrix = np.zeros((len(self.panel), self.columns + 1))
        np.add.at(matrix, (self.row, self.column), self.x[:, 0])
        matrix[:, -1] = self.panel[:, 0]
        return matrix


def _summed(which: Labels, groups: int) -> Any:
    """A matrix (groups, n) that sums the rows of each group."""
    n = len(which)
    return sparse.csr_array((np.ones(n), (which, np.arange(n))), shape=(groups, n))


def bootstrap_weights(columns: int, resamples: int, seed: int) -> Matrix:
    """Normal weights (resamples, columns)."""
    return np.random.default_rng(seed).normal(size=(resamples, columns))


def explained(weights: Matrix, form: Matrix) -> Matrix:
    """W'Bw (resamples,) for weights (resamples, columns)."""
    w = np.column_stack([weights, np.ones(len(weights))])
    return np.asarray(((w @ form) * w).sum(axis=1))


# Plausible true components of one stratum: those under which the observed sums of squares would not be surprising.
#
# Generalised intervals (Weerahandi 1993) take, for each resample, the true value that would have given the observed
# sum of squares if nature had drawn as the resample did.
#
# Noise (draw and residual). If the expected sum of squares is E, a study observes E times a random factor. A
# resample shows such a factor: its own sum of squares divided by the mean of all resamples. So E = observed /
# factor. With normal draws this is the exact chi-square interval. With few draws it reaches far up: this is the
# widening.
#
# Other sources. A resample explains fixed + linear + quadratic: the means over draws alone, products of means and
# noise, and noise alone. If the true noise is lambda^2 times the estimated noise, then the true part of a source is
#
#     observed - lambda linear - lambda^2 (quadratic - its mean) - lambda^2 (the expected noise).
#
# If the source has no effect, this is at most 0 as often as an F test against the noise does not reject.


@dataclass(frozen=True)
class PlausibleComponents:
    """The components of a stratum, in the order of EVERY.

    `estimate` (sources,) is unbiased. `plausible` (resamples, sources) are plausible true values. `drawn` (resamples,
    sources) are the estimates from the resamples, whose own true components are `centre` (sources,).
    """

    estimate: Matrix
    plausible: Matrix
    drawn: Matrix
    centre: Matrix


def widened(observed: Matrix, drawn: Matrix) -> Matrix:
    """Plausible expected sums of squares (resamples, names): observed / (drawn / mean drawn); 0 if all are 0."""
    factor = drawn / np.where(drawn.mean(axis=0) > 0, drawn.mean(axis=0), 1.0)
    return np.asarray(np.where(factor > 0, observed / np.where(factor > 0, factor, 1.0), 0.0))


def plausible(
    stratum: Stratum, moves: Moves, weights: Matrix, observed: Matrix, items: Matrix
) -> PlausibleComponents:
    """Components from observed sums of squares (names,), of which `items` (names,) is the noise of items."""
    forms = [_rounded(moves.added_form(stratum.added[name]), moves.observed) for name in stratum.names]
    fixed = np.array([form[-1, -1] for form in forms])
    linear = np.column_stack([2 * weights @ form[:-1, -1] for form in forms])
    quadratic = np.column_stack([((weights @ form[:-1, :-1]) * weights).sum(axis=1) for form in forms])
    whole = fixed + linear + quadratic

    noise, coefficients = stratum.noise, stratum.coefficients
    between_noise = coefficients[np.ix_(noise, noise)]
    right = widened(observed[noise], whole[:, noise]) - items[noise]
    true = np.zeros((len(right), len(noise)))
    true[:, noise] = np.linalg.solve(between_noise, right.T).T
    estimate = np.asarray(np.linalg.solve(coefficients, observed - items), np.float64)
    expected, likely = (stratum.expected_noise(c) + items for c in (estimate, true))
    square = np.maximum(np.where(expected > 0, likely / np.where(expected > 0, expected, 1.0), 0.0), 0.0)
    moved = np.sqrt(square) * linear + square * (quadratic - quadratic.mean(axis=0))
    left = observed - moved - square * expected
    own = np.diag(coefficients)
    true[:, ~noise] = (left / own)[:, ~noise]
    centre = fixed / own
    centre[noise] = np.linalg.solve(between_noise, (whole.mean(axis=0) - items)[noise])
    estimate, true, centre = (stratum.spread_out(c) for c in (estimate, true, centre))
    return PlausibleComponents(estimate, true, stratum.solve(whole - items), centre)


# Shares and ratios of variance components with their intervals, as figure 5 and the report show them.

SHARES_COLUMNS = ["source", "df", "component", "share", "low", "high"]
TAIL = 0.02  # on each side; with 0.025, intervals that claim 95 percent covered 93 percent in some simulated studies


def report(
    estimate: Matrix,
    likely: Sequence[PlausibleComponents] | None,
    df: Mapping[str, int],
    cells: int,
    draws: int,
    note: str,
) -> Shares:
    """Shares of components (strata, sources), with intervals if plausible components of each stratum are given.

    Shares are ratios of estimates, so they are biased. The mean difference between the shares of resamples and their
    true ones estimates the bias, which is subtracted. An interval contains the plausible values with and without
    this correction, because each of the two covers too little in some simulated study (docs/statistics.md).
    """
    central, sets = shares_of(estimate), list[Matrix]()
    if likely is not None:
        true = shares_of(np.array([each.plausible for each in likely]))
        drawn = shares_of(np.array([each.drawn for each in likely])).mean(axis=0)
        bias = drawn - shares_of(np.array([each.centre for each in likely]))
        central, sets = central - bias, [true, true - bias]

    def interval(of: Callable[[Matrix], Matrix]) -> IntervalEstimate:
        value = float(of(central))
        if not sets:
            return IntervalEstimate(value)
        lows = [value] if np.isfinite(value) else []
        highs = list(lows)
        for values in map(of, sets):  # NaN counts as any value
            unknown, last = np.isnan(values), len(values) - 1
            lows.append(float(np.sort(np.where(unknown, 0.0, values))[int(TAIL * last)]))
            high = np.sort(np.where(unknown, np.inf, values))[int(np.ceil((1 - TAIL) * last))]
            highs.append(float(high))
        return IntervalEstimate(value, min(lows), max(highs))

    def share(names: Sequence[str]) -> IntervalEstimate:
        return interval(lambda shares: np.clip(_sum(shares, names), 0.0, 1.0))

    def ratio(above: Sequence[Sequence[str]], below: Sequence[Sequence[str]]) -> IntervalEstimate:
        """The shares of some parts divided by those of others. 0 / 0 widens the interval on both sides.

        A part is several sources together. It is cut off at 0 before parts are added: otherwise the interaction could
        make up for a negative share of the search, and calibration : search could be above 1 without a calibration.
        """

        def divided(shares: Matrix) -> Matrix:
            both = [sum(np.maximum(_sum(shares, names), 0.0) for names in parts) for parts in (above, below)]
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.asarray(both[0] / both[1])

        found = interval(divided)
        return found if np.isfinite(found.value) else replace(found, value=NAN)

    rows = []
    for i, name in enumerate(EVERY):
        e = share([name]) if df[name] else IntervalEstimate(NAN)
        rows.append(
            [name, df[name], float(estimate[:, i].mean()) if df[name] else NAN, e.value, e.low, e.high]
        )
    parts = {"calibration": CALIBRATION, "search": SEARCH, "interaction": INTERACTION}
    found = Shares(
        pd.DataFrame(rows, columns=SHARES_COLUMNS),
        {name: share(members) for name, members in parts.items()},
        ratio([CALIBRATION], [SEARCH]),
        ratio([CALIBRATION, INTERACTION], [SEARCH, INTERACTION]),
        cells,
        draws,
        note,
    )
    if not df["objective"]:
        return found
    against_search = ratio([OBJECTIVE, INTERACTION], [SEARCH, INTERACTION])
    return replace(found, objective_ratio=against_search, objective_draw=ratio([OBJECTIVE], [[DRAWN]]))


def refused(cells: int, draws: int, note: str) -> Shares:
    """Shares that are all NaN, with the reason in `note`."""
    nothing = IntervalEstimate(NAN)
    parts = dict.fromkeys(("calibration", "search", "interaction"), nothing)
    return Shares(pd.DataFrame(columns=SHARES_COLUMNS), parts, nothing, nothing, cells, draws, note)


def shares_of(components: Matrix) -> Matrix:
    """Shares (..., sources) of components (strata, ..., sources): of the sum in each stratum, averaged over strata.

    Estimates of components can be negative. The sum is then at least the largest of calibration, search and
    interaction, so that no share is above 1. If nothing is above zero, all shares of the stratum are 0.
    """
    groups = [_sum(components, names) for names in (CALIBRATION, SEARCH, INTERACTION)]
    whole = np.maximum(np.maximum.reduce(groups), components.sum(axis=-1))[..., None]
    shares = np.where(whole > 0, components / np.where(whole > 0, whole, 1.0), 0.0)
    return np.asarray(np.clip(shares, -1.0, 1.0).mean(axis=0))


def _sum(values: Matrix, names: Sequence[str]) -> Matrix:
    """Add up the values (last axis) of some sources."""
    return np.asarray(values[..., [EVERY.index(name) for name in names]].sum(axis=-1))


# The noise of an accuracy: other items of the same kind would give every mask another accuracy.
#
# Masks are measured on the same items, so their noise is correlated, and equal masks have the same noise. The
# answers to each item give the whole covariance: with x_t (cells,) the contribution of item t to the accuracies,
# and n items of a task, it is the sum over tasks and items of n / (n - 1) (x_t - mean) (x_t - mean)'. Columns whose
# products have this sum are the noise of the items.

NOISE_COLUMNS = 64  # random combinations of items that resamples use instead of all items


def item_noise(answers: Mapping[str, Matrix]) -> Matrix:
    """The noise E (cells, items) of mean accuracies in percent; their covariance is E E'.

    `answers` maps each task to how right each cell's mask answered each item (cells, items), from 0 to 1. The
    accuracy is the mean over tasks of the mean over items. Tasks of one item say nothing about noise and are left
    out.
    """
    columns = []
    for of_task in answers.values():
        n = of_task.shape[1]
        if n > 1:
            deviation = of_task - of_task.mean(axis=1, keepdims=True)
            columns.append(100 * deviation / (len(answers) * n) * np.sqrt(n / (n - 1)))
    return np.hstack(columns) if columns else np.zeros((len(next(iter(answers.values()))), 0))


def compressed(noise: Matrix, seed: int) -> Matrix:
    """Fewer columns with about the same covariance: random combinations of the items (cells, at most COLUMNS)."""
    if noise.shape[1] <= NOISE_COLUMNS:
        return noise
    mixed = np.random.default_rng([seed, noise.shape[1]]).normal(size=(noise.shape[1], NOISE_COLUMNS))
    return np.asarray(noise @ mixed / np.sqrt(NOISE_COLUMNS))
