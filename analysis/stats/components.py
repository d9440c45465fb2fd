"""Variance components: how much of the variance is due to the calibration, and how much to the search.

The components of each stratum (one model and one k; for losses also one objective) are estimated from sums of
squares. Resampling the study gives plausible true values of the components. docs/statistics.md has the definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, stats

from .grid import CONFIGURATION, DRAW, SETTING, STRATUM, Labels, indicator, labels, several_sizes
from .mask_overlap import MaskSet
from .means import DATA, jackknife

NAN = float("nan")
SPREAD = 1e-12  # if an outcome's sum of squares is at most this, it has no spread
ROUNDING = 1e-10  # smaller shares of the sum of squares are rounding errors
TOLERANCE = 1e-8
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class IntervalEstimate:
    """A number with its 95 percent interval; `low` and `high` are NaN if there is no interval.

    A ratio has the `value` NaN if its denominator is not above zero. Without an upper end, `high` is infinite.
    """

    value: float
    low: float = NAN
    high: float = NAN


@dataclass(frozen=True)
class Shares:
    """The variance of one outcome, divided among its sources.

    `sources` has a row for each source: its degrees of freedom, its component (mean over strata), and its share with
    an interval. `parts` has the shares of calibration, search and their interaction, clipped at 0. `total_ratio` is
    calibration : search, and `objective_ratio` is objective : search; the interaction is added to numerator and
    denominator of both. `objective` names the objective as a source: "objective and data" if objectives read
    different data. `note` says what could not be computed, and why.
    """

    sources: pd.DataFrame
    parts: Mapping[str, IntervalEstimate]
    total_ratio: IntervalEstimate
    note: str = ""
    objective_ratio: IntervalEstimate = IntervalEstimate(NAN)
    objective: str = "objective"


class Design:
    """The cells of a study and the equations of each stratum (defined by the columns `by`), for all outcomes."""

    def __init__(self, frame: pd.DataFrame, by: Sequence[str] = STRATUM) -> None:
        self.frame, self.draw = frame, labels(frame, DRAW)
        self.levels = {name: labels(frame, columns) for name, columns in SOURCES.items()}
        self.strata = [Stratum(self.levels, rows) for rows in strata(frame, by)]
        self.no_interval = refusal(frame)
        self.donors = borrowed(frame)

    def shares(
        self, of: Sequence[Coordinates], resamples: int = 999, seed: int = 0, items: Matrix | None = None
    ) -> Shares:
        """Shares of an outcome's variance. `of` has the outcome's coordinates in each of the `strata`, in
        order. `items` (cells, items), if given, is the noise of items (`item_noise`): it is subtracted from
        sums of squares, and resampled for intervals. Strata with too few cells or with equal outcomes are left out.
        """
        used = [i for i, s in enumerate(self.strata) if not s.refusal and of[i].total > SPREAD]
        if not used:
            reasons = (stratum.refusal for stratum in self.strata)
            return refused(next(filter(None, reasons), "all cells of a stratum have the same outcome"))
        df = {name: sum(self.strata[i].df[name] for i in used) for name in EVERY}
        solved = np.array([self.strata[i].components(of[i], items) for i in used])
        if self.no_interval:
            return report(solved, None, df, self.no_interval)
        likely = []
        for i in used:
            moves = resampled_moves(self.frame, self.strata[i].rows, of[i], self.donors, items)
            weights = np.random.default_rng(seed).normal(size=(resamples, len(moves) - 1))
            likely.append(plausible(self.strata[i], of[i], moves, weights, items))
        found = report(solved, likely, df)
        if any(of[i].x.shape[1] == 1 for i in used):
            # For numbers, this interval would cover the true share too rarely if one draw dominates.
            found.sources.loc[found.sources["source"] == DRAWN, ["low", "high"]] = NAN
        if not df["objective"]:
            return found
        data = self.frame.groupby("objective")["calibration"].agg(frozenset)
        name = "objective and data" if data.nunique() > 1 else "objective"
        return replace(found, objective_ratio=self._objective(of, items, used), objective=name)

    def _objective(
        self, of: Sequence[Coordinates], items: Matrix | None, used: Sequence[int]
    ) -> IntervalEstimate:
        """Objective : search. Its interval comes from a jackknife of the logarithm that leaves out a draw.

        The degrees of freedom are the smallest that Welch and Satterthwaite's formula can give: the number of draws
        from the data set with the fewest draws, minus 1. With the number of draws minus that of data sets instead,
        intervals for four data sets of three draws each covered only 78 to 88 percent of true values.
        """

        def logarithm(parts: Sequence[Stratum], which: Sequence[Coordinates]) -> float:
            solved = [s.components(c, items) for s, c in zip(parts, which, strict=True)]
            with np.errstate(divide="ignore", invalid="ignore"):
                return float(np.log(divided(shares_of(np.array(solved)), *AGAINST_SEARCH["objective"])))

        value = logarithm([self.strata[i] for i in used], [of[i] for i in used])
        left = []
        for parts in self._without_a_draw:
            kept = [np.isin(self.strata[i].rows, parts[i].rows) for i in used]
            which = [Coordinates(of[i].x[rows], of[i].signs) for i, rows in zip(used, kept, strict=True)]
            left.append(logarithm([parts[i] for i in used], which))
        if not np.isfinite([value, *left]).all():  # without some draw, a side is 0
            return IntervalEstimate(float(np.exp(value)) if np.isfinite(value) else NAN, 0.0, float("inf"))
        _, first = np.unique(self.draw, return_index=True)
        data = labels(self.frame, DATA)[first]
        error = jackknife(np.array(left), data)
        half = float(stats.t.ppf(0.975, np.unique(data, return_counts=True)[1].min() - 1)) * error
        with np.errstate(over="ignore"):
            return IntervalEstimate(*(float(np.exp(x)) for x in (value, value - half, value + half)))

    @cached_property
    def _without_a_draw(self) -> list[list[Stratum]]:
        """For each draw, all strata without the cells of this draw."""
        return [
            [Stratum(self.levels, s.rows[self.draw[s.rows] != number]) for s in self.strata]
            for number in np.unique(self.draw)
        ]


# Outcomes as coordinates, so that the same formulas apply to numbers and masks.
#
# From distances D, Gower's matrix G = -1/2 J D^2 J (J = I - 11'/n) has the inner products of centred observations.
# Coordinates are X (n, p) and signs s (p,) with G = X diag(s) X'. If Q is an orthonormal basis of some columns,
# these columns explain the sum of squares tr(Q'GQ) = sum over p of s |Q'X|^2 (McArdle and Anderson 2001). For
# numbers, X is the deviation from the mean, and these sums of squares are those of the analysis of variance.


@dataclass(frozen=True)
class Coordinates:
    """The coordinates `x` (n, p) of n observations, and their `signs` (p,).

    In a sum of squares, a column counts with its sign. Jaccard distances are not Euclidean, so a few signs can be -1.
    """

    x: Matrix
    signs: Matrix

    def squares(self, x: Matrix) -> float:
        """The sum of squares of vectors x (any, p) in these coordinates."""
        return float((x**2).sum(axis=0) @ self.signs)

    @property
    def total(self) -> float:
        """The sum of squares of all observations."""
        return self.squares(self.x)


def coordinates(
    frame: pd.DataFrame, values: ArrayLike | None, by: Sequence[str] = STRATUM
) -> list[Coordinates]:
    """An outcome's coordinates in each stratum: those of `values` (one per cell) or, if None, those of the masks."""
    if values is None:
        return [of_masks(frame.iloc[rows]) for rows in strata(frame, by)]
    y = np.asarray(values, float)
    return [of_values(y[rows]) for rows in strata(frame, by)]


def of_values(values: ArrayLike) -> Coordinates:
    """Coordinates of numbers: deviations from the mean."""
    y = np.asarray(values, float)
    return Coordinates((y - y.mean())[:, None], np.ones(1))


def of_masks(part: pd.DataFrame) -> Coordinates:
    """Coordinates of the masks of some cells, from their Jaccard distances (1 minus the overlap)."""
    every, n = MaskSet.of(part), len(part)
    i, j = (rows.ravel() for rows in np.indices((n, n)))
    return of_distances(1.0 - every.pairs(i, j).jaccard.reshape(n, n))


def of_distances(distances: ArrayLike) -> Coordinates:
    """Principal coordinates of n points, from the matrix `distances` (n, n)."""
    squared = np.asarray(distances, float) ** 2
    mean = squared.mean(axis=0)
    inner = -0.5 * (squared - mean - mean[:, None] + mean.mean())
    values, vectors = linalg.eigh(inner)
    kept = np.abs(values) > TOLERANCE * np.abs(values).max(initial=1e-300)
    return Coordinates(vectors[:, kept] * np.sqrt(np.abs(values[kept])), np.sign(values[kept]))


# The sources of variation in a study, and the columns that define their levels; nested sources come later.

DRAWN = "draw (seed)"
RESIDUAL = "draw x algorithm, rest"
SOURCES: Mapping[str, tuple[str, ...]] = {
    "objective": ("objective",),
    "calibration data": ("objective", "calibration"),
    "samples": ("objective", "calibration", "samples"),
    "length": tuple(CONFIGURATION),
    DRAWN: tuple(SETTING),
    "algorithm": ("algo",),
    "objective x algorithm": ("objective", "algo"),
}
PANEL = [*STRATUM, *CONFIGURATION, "algo"]  # cells with equal values in these columns differ only in the draw
OBJECTIVE, SEARCH = ("objective",), ("algorithm",)
CALIBRATION = (*OBJECTIVE, "calibration data", "samples", "length", DRAWN)
INTERACTION = ("objective x algorithm", RESIDUAL)
EVERY = (*SOURCES, RESIDUAL)
NOISE = (DRAWN, RESIDUAL)
Side = Sequence[Sequence[str]]  # a sum of parts; each part is a sum of sources
# The ratios to the search, with the interaction added to both sides.
AGAINST_SEARCH: Mapping[str, tuple[Side, Side]] = {
    "calibration": ((CALIBRATION, INTERACTION), (SEARCH, INTERACTION)),
    "objective": ((OBJECTIVE, INTERACTION), (SEARCH, INTERACTION)),
}


def strata(frame: pd.DataFrame, by: Sequence[str] = STRATUM) -> list[Labels]:
    """The row numbers of each stratum."""
    stratum = labels(frame, by)
    return [np.flatnonzero(stratum == level) for level in np.unique(stratum)]


def spanned(levels: Sequence[Labels], given: Matrix | None = None) -> Matrix:
    """An orthonormal basis (n, df) of what `levels`, each (n,), span beyond the columns of `given`."""
    columns = np.hstack([indicator(one) for one in levels])
    if given is not None:
        columns = columns - given @ (given.T @ columns)
    u, sizes, _ = linalg.svd(columns, full_matrices=False)
    return np.asarray(u[:, sizes > TOLERANCE * np.sqrt(len(columns))])


def adjusted(levels: Mapping[str, Labels]) -> dict[str, Matrix]:
    """For each source, a basis (n, df) of what it explains beyond the sources that do not contain it (type II).

    `levels` has, for each source, an array (n,): the level of each of the n cells of one stratum. The last basis is
    for the residual, which no source explains.
    """

    def finest(names: Sequence[str]) -> list[Labels]:
        """The levels of the sources in `names`, without the sources that another source in `names` refines."""
        sets = {name: set(SOURCES[name]) for name in names}
        return [levels[n] for n in names if not any(sets[n] < other for other in sets.values())]

    n = len(next(iter(levels.values())))
    found = {}
    for name, columns in SOURCES.items():
        others = [one for one, of in SOURCES.items() if not set(columns) <= set(of)]
        found[name] = spanned([levels[name]], spanned([np.zeros(n, dtype=np.int64), *finest(others)]))
    every = spanned(finest([*SOURCES]))
    return {**found, RESIDUAL: linalg.qr(every)[0][:, every.shape[1] :]}


# From sums of squares to components.
#
# Let Q_j be a basis of what source j adds to the sources that do not contain it, and Z_i the indicators of source i.
#
#     E[SS_j] = s_j^2 tr(Q_j' Z_j Z_j' Q_j) + sum over noise i of sigma_i^2 tr(Q_j' Z_i Z_i' Q_j),
#
# where the noise sources i are the draw and the residual. These equations are solved for s_j^2 and sigma_i^2
# (Searle, Casella and McCulloch 1992, chapter 5). The estimates are unbiased, and can be negative if the true
# component is zero. s_j^2 is the variance (ddof 1) of the effects over the levels in the study.


class Stratum:
    """The equations of one stratum. `names` are the sources that have several levels to compare."""

    def __init__(self, levels: Mapping[str, Labels], rows: Labels) -> None:
        own = {name: of[rows] for name, of in levels.items()}
        self.rows, self.bases = rows, adjusted(own)
        self.df = {name: self.bases[name].shape[1] for name in EVERY}
        self.names = [name for name in EVERY if self.df[name]]
        self.noise = np.array([name in NOISE for name in self.names])
        self.coefficients = np.zeros((len(self.names), len(self.names)))
        for i, name in enumerate(self.names):
            # tr(Q'ZZ'Q); for the residual, Z is the identity.
            z = np.eye(len(rows)) if name == RESIDUAL else indicator(own[name])
            for j, other in enumerate(self.names):
                if i == j or name in NOISE:
                    self.coefficients[j, i] = ((self.bases[other].T @ z) ** 2).sum()

    @property
    def refusal(self) -> str:
        """The reason why no component can be computed; empty if there is none."""
        if not any(self.df[name] for name in CALIBRATION):
            return "one calibration only: nothing to compare the search with"
        if not self.df["algorithm"]:
            return "one algorithm only: nothing to compare the calibration with"
        if self.df[RESIDUAL] < 3:
            return f"{self.df[RESIDUAL]} degrees of freedom are left for noise; at least 3 are needed"
        return ""

    def squares(self, of: Coordinates) -> Matrix:
        """For each source in `names`, the sum of squares of an outcome that it explains (names,)."""
        return _rounded(np.array([of.squares(self.bases[name].T @ of.x) for name in self.names]), of)

    def squares_of_items(self, items: Matrix | None) -> Matrix:
        """The sums of squares (names,) that the noise `items` (cells of the study, items) adds on average."""
        if items is None:
            return np.zeros(len(self.names))
        return self.squares(Coordinates(items[self.rows], np.ones(items.shape[1])))

    def components(self, of: Coordinates, items: Matrix | None = None) -> Matrix:
        """The estimated components (sources,) of an outcome, without the noise of items."""
        return self.solve(self.squares(of) - self.squares_of_items(items))

    def solve(self, squares: Matrix) -> Matrix:
        """Solve the stratum's equations: the components (..., sources) for sums of squares `squares` (..., names)."""
        return self.spread_out(np.asarray(np.linalg.solve(self.coefficients, np.asarray(squares).T).T))

    def spread_out(self, values: Matrix) -> Matrix:
        """Expand the last axis of `values` from the sources `names` to all in EVERY; the others get 0."""
        whole = np.zeros((*values.shape[:-1], len(EVERY)))
        whole[..., [EVERY.index(name) for name in self.names]] = values
        return whole


def _rounded(squares: Matrix, of: Coordinates) -> Matrix:
    """Sums of squares, with rounding errors set to 0, so that a source explains nothing if masks are equal."""
    return np.where(np.abs(squares) < ROUNDING * of.total, 0.0, squares)


# Resampled studies with new calibration draws, the only random factor of a study's design.
#
# A resample keeps the means over draws (the panel) and gives each draw a new deviation from them: a random
# combination, with normal weights, of the deviations that draws from the same data have. All cells of a draw share
# the weights, in all strata, so resampled deviations have the covariance of the observed ones. Weights with only two
# or six values, as in a wild bootstrap, would keep the squares of the deviations and hide how they vary.

CLUSTERS = 6  # with fewer draws, no interval is given
PARTNERS = 8  # a draw borrows from at most this number of draws, itself included


def refusal(frame: pd.DataFrame) -> str:
    """The reason why no interval can be computed; empty if an interval can be computed."""
    repeats = frame.groupby(PANEL, dropna=False)["draw"].nunique()
    if float((repeats > 1).mean()) < 0.5:
        return "no interval: most configurations were drawn once, so the noise of a draw is unknown"
    if several_sizes(frame):
        return "no interval: larger draws contain smaller ones; choose one size with --only samples=N"
    if (draws := len(np.unique(labels(frame, DRAW)))) < CLUSTERS:
        return f"no interval: {draws} draws; at least {CLUSTERS} are needed"
    return ""


@dataclass(frozen=True)
class Borrowed:
    """Entry e: cell row[e] gets donor[e]'s deviation times factor[e] times the random weight with index column[e]."""

    row: Labels
    donor: Labels
    column: Labels
    factor: Matrix
    columns: int


def borrowed(frame: pd.DataFrame) -> Borrowed:
    """The donors of every cell: cells that differ from it only in the draw (PANEL), with draws from the same data.

    The draws from the same data are put in a circle, and each draw borrows from itself and from the next draws. If
    draws have repeated cells, a draw's first cell borrows from another draw's first, and so on. `factor` corrects the
    variance of resampled deviations: deviations of m draws from their mean have (m - 1) / m of a draw's variance.
    """
    draw, data, same = (labels(frame, columns) for columns in (DRAW, DATA, PANEL))
    circles = {of: np.unique(draw[data == of]).tolist() for of in np.unique(data)}
    own: dict[tuple[int, int], list[int]] = {}
    repeat = [0] * len(frame)
    for row, key in enumerate(zip(same, draw, strict=True)):
        repeat[row] = len(own.setdefault(key, []))
        own[key].append(row)
    partners = min(PARTNERS, max(map(len, circles.values())))
    entries = []
    for row, (group, number, of) in enumerate(zip(same, draw, data, strict=True)):
        circle = circles[of]
        for step in range(min(partners, len(circle))):
            other = circle[(circle.index(number) + step) % len(circle)]
            if donors := own.get((group, other)):
                entries.append((row, donors[repeat[row] % len(donors)], number * partners + step))
    row_, donor, column = np.array(entries, dtype=np.int64).T
    drawn = pd.Series(draw).groupby(same).transform("nunique").to_numpy()
    received = np.bincount(row_, minlength=len(frame))
    factor = np.sqrt(drawn / np.maximum(drawn - 1, 1) / np.maximum(received, 1))
    return Borrowed(row_, donor, column, factor[row_], (int(draw.max()) + 1) * partners)


def resampled_moves(
    frame: pd.DataFrame, rows: Labels, of: Coordinates, donors: Borrowed, items: Matrix | None = None
) -> Matrix:
    """The moves (columns + 1, n, p) of one stratum. Their sum, weighted with (weights, 1), is a resample.

    The last move, the panel means, is in all resamples. Columns of `items` (cells of the study, columns) add moves.
    """
    same = indicator(labels(frame.iloc[rows], PANEL))
    panel = same @ (same.T @ of.x / same.sum(axis=0)[:, None])
    more = 0 if items is None else items.shape[1]
    moves = np.zeros((donors.columns + more + 1, *of.x.shape))
    own = np.isin(donors.row, rows)
    row, donor = (np.searchsorted(rows, cells[own]) for cells in (donors.row, donors.donor))
    np.add.at(moves, (donors.column[own], row), donors.factor[own, None] * (of.x - panel)[donor])
    if items is not None:
        moves[donors.columns : -1, :, 0] = items[rows].T
    moves[-1] = panel
    return moves


def added_form(basis: Matrix, moves: Matrix, signs: Matrix) -> Matrix:
    """The matrix B (moves, moves): if moves are weighted with w, `basis` explains the sum of squares w'Bw."""
    along = np.einsum("nq,cnp->cqp", basis, moves, optimize=True)
    left, right = along.reshape(len(moves), -1), (along * signs).reshape(len(moves), -1)
    return np.asarray(left @ right.T)


# Plausible true components of one stratum: generalised intervals (Weerahandi 1993) take, for each resample, the true
# value that would have given the observed sum of squares if nature had drawn as the resample did.
#
# Noise (draw and residual). If the expected sum of squares is E, a study observes E times a random factor. A
# resample shows such a factor: its own sum of squares divided by the mean over all resamples. So E = observed /
# factor (`widened`). With normal draws, this gives the exact chi-square interval.
#
# Other sources. The sum of squares of a resample is fixed + linear + quadratic: the parts of the means over draws, of
# products of means and noise, and of noise alone. If the true noise is lambda^2 times the estimated noise, then the
# true part of a source is
#
#     observed - lambda linear - lambda^2 (quadratic - its mean) - lambda^2 (the expected noise).


def widened(observed: Matrix, drawn: Matrix) -> Matrix:
    """Plausible expected sums of squares (resamples, names): observed / (drawn / mean drawn); 0 where drawn is 0."""
    factor = drawn / np.where(drawn.mean(axis=0) > 0, drawn.mean(axis=0), 1.0)
    return np.asarray(np.where(factor > 0, observed / np.where(factor > 0, factor, 1.0), 0.0))


def plausible(
    stratum: Stratum, of: Coordinates, moves: Matrix, weights: Matrix, items: Matrix | None
) -> tuple[Matrix, Matrix, Matrix]:
    """Components of an outcome; its resamples are sums of `moves`, weighted with `weights` (resamples, columns).

    Returns plausible true components (resamples, sources), the components estimated from each resample (resamples,
    sources), and the components (sources,) from which resamples are drawn, each in the order of EVERY.
    """
    observed, of_items = stratum.squares(of), stratum.squares_of_items(items)
    forms = [_rounded(added_form(stratum.bases[name], moves, of.signs), of) for name in stratum.names]
    fixed = np.array([form[-1, -1] for form in forms])
    linear = np.column_stack([2 * weights @ form[:-1, -1] for form in forms])
    quadratic = np.column_stack([((weights @ form[:-1, :-1]) * weights).sum(axis=1) for form in forms])
    whole = fixed + linear + quadratic

    noise, coefficients = stratum.noise, stratum.coefficients
    between_noise = coefficients[np.ix_(noise, noise)]
    right = widened(observed[noise], whole[:, noise]) - of_items[noise]
    true = np.zeros((len(right), len(noise)))
    true[:, noise] = np.linalg.solve(between_noise, right.T).T
    estimate = np.asarray(np.linalg.solve(coefficients, observed - of_items), np.float64)
    # What the noise (draw and residual) adds to each sum of squares on average.
    expected, likely = (c[..., noise] @ coefficients[:, noise].T + of_items for c in (estimate, true))
    square = np.maximum(np.where(expected > 0, likely / np.where(expected > 0, expected, 1.0), 0.0), 0.0)
    moved = np.sqrt(square) * linear + square * (quadratic - quadratic.mean(axis=0))
    left = observed - moved - square * expected
    own = np.diag(coefficients)
    true[:, ~noise] = (left / own)[:, ~noise]
    centre = fixed / own
    centre[noise] = np.linalg.solve(between_noise, (whole.mean(axis=0) - of_items)[noise])
    return stratum.spread_out(true), stratum.solve(whole - of_items), stratum.spread_out(centre)


# Shares and ratios of variance components with their intervals, as figure 5 and the report show them.

SHARES_COLUMNS = ["source", "df", "component", "share", "low", "high"]
TAIL = 0.02  # on each side; with 0.025, intervals that claim 95 percent covered 93 percent in some simulated studies


def report(
    estimate: Matrix,
    likely: Sequence[tuple[Matrix, Matrix, Matrix]] | None,
    df: Mapping[str, int],
    note: str = "",
) -> Shares:
    """Shares of components (strata, sources), with intervals if plausible components of each stratum are given.

    Shares are ratios of estimates, so they are biased. The bias is estimated by the mean difference between
    the shares of resamples and their true shares, and subtracted. An interval contains the plausible values
    with and without this correction, because each alone covered the truth too rarely (docs/statistics.md).
    """
    central, sets = shares_of(estimate), list[Matrix]()
    if likely is not None:
        true, drawn, centre = (shares_of(np.array(parts)) for parts in zip(*likely, strict=True))
        bias = drawn.mean(axis=0) - centre
        central, sets = central - bias, [true, true - bias]

    def interval(of: Callable[[Matrix], Matrix]) -> IntervalEstimate:
        value = float(of(central))
        if not sets:
            return IntervalEstimate(value)
        lows = [value] if np.isfinite(value) else []
        highs = list(lows)
        for values in map(of, sets):  # NaN can be any value, so it is 0 for `low` and infinite for `high`
            unknown, last = np.isnan(values), len(values) - 1
            lows.append(float(np.sort(np.where(unknown, 0.0, values))[int(TAIL * last)]))
            high = np.sort(np.where(unknown, np.inf, values))[int(np.ceil((1 - TAIL) * last))]
            highs.append(float(high))
        return IntervalEstimate(value, min(lows), max(highs))

    def share(names: Sequence[str]) -> IntervalEstimate:
        return interval(lambda shares: np.clip(_sum(shares, names), 0.0, 1.0))

    def ratio(above: Side, below: Side) -> IntervalEstimate:
        found = interval(lambda shares: divided(shares, above, below))
        return found if np.isfinite(found.value) else replace(found, value=NAN)

    rows = []
    for i, name in enumerate(EVERY):
        e = share([name]) if df[name] else IntervalEstimate(NAN)
        component = float(estimate[:, i].mean()) if df[name] else NAN
        rows.append([name, df[name], component, e.value, e.low, e.high])
    parts = {"calibration": CALIBRATION, "search": SEARCH, "interaction": INTERACTION}
    found = Shares(
        pd.DataFrame(rows, columns=SHARES_COLUMNS),
        {name: share(members) for name, members in parts.items()},
        ratio(*AGAINST_SEARCH["calibration"]),
        note,
    )
    return replace(found, objective_ratio=ratio(*AGAINST_SEARCH["objective"])) if df["objective"] else found


def divided(shares: Matrix, above: Side, below: Side) -> Matrix:
    """The summed shares of the parts `above`, divided by those of the parts `below`; NaN for 0 / 0.

    Each part's share is clipped at 0 before shares are added. Otherwise a negative share of the search would
    reduce the denominator, and calibration : search could exceed 1 even if calibration explains nothing.
    """
    first, second = (
        np.sum([np.maximum(_sum(shares, names), 0.0) for names in parts], axis=0) for parts in (above, below)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(first / second)


def refused(note: str) -> Shares:
    """Shares that are all NaN, with the reason in `note`."""
    nothing = IntervalEstimate(NAN)
    parts = dict.fromkeys(("calibration", "search", "interaction"), nothing)
    return Shares(pd.DataFrame(columns=SHARES_COLUMNS), parts, nothing, note)


def shares_of(components: Matrix) -> Matrix:
    """Shares (..., sources) of components (strata, ..., sources), averaged over strata.

    Components are divided by the larger of two numbers: their sum over the stratum's sources (some can be
    negative), and the largest of calibration, search and interaction. If no divisor is above zero, shares are 0.
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
# Masks are measured on the same items, so their noise is correlated. If item t contributes x_t (cells,) to the
# accuracies, and a task has n items, the covariance is the sum over tasks and items of n / (n - 1) (x_t - mean)
# (x_t - mean)'. The noise of the items is a matrix E such that E E' is this sum.


def item_noise(answers: Mapping[str, Matrix]) -> Matrix:
    """The noise E (cells, items) of mean accuracies in percent; the accuracies of cells have the covariance E E'.

    `answers` maps each task to an array (cells, items): how correct each cell's answer to each item is, from 0
    to 1. The accuracy is the mean over tasks of the mean over items. Tasks with only one item are left out.
    """
    columns = []
    for of_task in answers.values():
        n = of_task.shape[1]
        if n > 1:
            deviation = of_task - of_task.mean(axis=1, keepdims=True)
            columns.append(100 * deviation / (len(answers) * n) * np.sqrt(n / (n - 1)))
    return np.hstack(columns) if columns else np.zeros((len(next(iter(answers.values()))), 0))
