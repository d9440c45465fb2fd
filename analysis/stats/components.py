"""Variance components: how much of the variance is due to the calibration, and how much to the search.

`solver.py` computes the components of each stratum (one model and one k; for losses also one objective),
`plausible.py` their plausible true values, and `estimates.py` the shares: in each stratum a component is divided by
the sum of all, and shares are averaged over strata. So the unit of the outcome does not matter, and every stratum has
equal weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, sparse, stats

from pruning.core.mask import Mask

from . import mask_overlap
from .grid import CONFIGURATION, DRAW, SETTING, STRATUM, Labels, indicator, labels, several_sizes

SPREAD = 1e-12  # an outcome whose sum of squares is not above this has no spread
ROUNDING = 1e-10  # parts of the sum of squares below this are rounding errors


def shares(
    frame: pd.DataFrame,
    of: Sequence[Coordinates],
    by: Sequence[str] = STRATUM,
    resamples: int = 999,
    seed: int = 0,
    items: Matrix | None = None,
) -> Shares:
    """Variance components of one outcome. `of` has the coordinates of each stratum, in the order of `strata`.

    `items` (cells, items), if given, is the noise of each evaluated item, in the units of the outcome
    (`item_noise.py`). It is subtracted from the sums of squares, and items are resampled together with draws. Strata
    in which the outcome has no spread, or that have too few cells, are left out.
    """
    return Design(frame, by).shares(of, resamples, seed, items)


class Design:
    """The cells of a study with the equations of each stratum, prepared once for any number of outcomes."""

    def __init__(self, frame: pd.DataFrame, by: Sequence[str] = STRATUM) -> None:
        self.frame, self.rows = frame, strata(frame, by)
        parts = [frame.iloc[rows] for rows in self.rows]
        self.added = [adjusted(Spans(part)) for part in parts]
        self.solvers = [Solver(part, each) for part, each in zip(parts, self.added, strict=True)]
        self.refusals = [solver.refusal() for solver in self.solvers]
        self.no_interval = refusal(frame)
        self.draws = Draws(frame, by)

    def shares(
        self, of: Sequence[Coordinates], resamples: int = 999, seed: int = 0, items: Matrix | None = None
    ) -> Shares:
        """Variance components of one outcome; see the function `shares`."""
        used = [i for i, note in enumerate(self.refusals) if not note and of[i].total > SPREAD]
        draws = count(self.frame)
        if not used:
            note = next(filter(None, self.refusals), "all cells of a stratum have the same outcome")
            return refused(len(self.frame), draws, note)
        df = {name: sum(self.solvers[i].df[name] for i in used) for name in EVERY}
        cells = sum(len(self.rows[i]) for i in used)
        squares = [(self._squares(i, of[i]), self._noise(i, items)) for i in used]
        if self.no_interval:
            found = [self._estimate(i, *each) for i, each in zip(used, squares, strict=True)]
            return report(np.array(found), None, df, cells, draws, self.no_interval)
        moved = self.draws.moves(of, None if items is None else compressed(items, seed))
        weights = bootstrap_weights(moved[0].columns, resamples, seed)
        likely = [
            plausible(self.solvers[i], *each, self._drawn(i, moved[i], weights))
            for i, each in zip(used, squares, strict=True)
        ]
        return report(np.array([each.estimate for each in likely]), likely, df, cells, draws, "")

    def _squares(self, i: int, of: Coordinates) -> Matrix:
        """The sums of squares (names,) that the sources explain in stratum i."""
        return _rounded(np.array([self.added[i][name].squares(of) for name in self.solvers[i].names]), of)

    def _noise(self, i: int, items: Matrix | None) -> Matrix:
        """The part (names,) of these sums of squares that is expected from the noise of items (cells, items)."""
        if items is None:
            return np.zeros(len(self.solvers[i].names))
        return self._squares(i, Coordinates(items[self.rows[i]], np.ones(items.shape[1])))

    def _estimate(self, i: int, squares: Matrix, noise: Matrix) -> Matrix:
        """The components (sources,) of stratum i, in the order of EVERY."""
        return self.solvers[i].spread_out(self.solvers[i].components(squares - noise))

    def _drawn(self, i: int, moved: Moves, weights: Matrix) -> DrawnSquares:
        """The sums of squares of resamples with the given weights (resamples, columns)."""
        added = [self.added[i][name] for name in self.solvers[i].names]
        forms = [_rounded(moved.added_form(each), moved.observed) for each in added]
        fixed = np.array([form[-1, -1] for form in forms])
        linear = np.column_stack([2 * weights @ form[:-1, -1] for form in forms])
        quadratic = np.column_stack([((weights @ form[:-1, :-1]) * weights).sum(axis=1) for form in forms])
        return DrawnSquares(fixed, linear, quadratic)


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
# deviations and hide this variation. `plausible.py` computes intervals from the resamples.

CLUSTERS = 6  # with fewer draws, no interval is given
PANEL = [*STRATUM, *CONFIGURATION, "algo"]  # cells with equal values in these columns differ only in the draw


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

    def resampled(self, weights: Matrix) -> Matrix:
        """Resampled coordinates (n, p) for weights (columns,)."""
        moved = self.panel.copy()
        np.add.at(moved, self.row, weights[self.column][:, None] * self.x)
        return moved

    def form(self, span: Span) -> Matrix:
        """The matrix B (columns + 1, columns + 1): a span explains w'Bw of a resample, with w = (weights, 1)."""
        if self.panel.shape[1] == 1:
            along = span.along(self._matrix)
            return np.asarray(along.T @ along * self.observed.signs[0])
        x = np.vstack([self.x, self.panel])
        row = np.concatenate([self.row, np.arange(len(self.panel))])
        column = np.concatenate([self.column, np.full(len(self.panel), self.columns)])
        signs, width = self.observed.signs, self.columns + 1
        return _of_levels(span, x, row, column, signs, width) + _of_rest(span, x, row, column, signs, width)

    @cached_property
    def _matrix(self) -> Matrix:
        """For numbers: a resample is this matrix (n, columns + 1) times (weights, 1)."""
        matrix = np.zeros((len(self.panel), self.columns + 1))
        np.add.at(matrix, (self.row, self.column), self.x[:, 0])
        matrix[:, -1] = self.panel[:, 0]
        return matrix

    def added_form(self, added: Addition) -> Matrix:
        """The form of what a source adds."""
        return self.form(added.span) - self.form(added.after)


def _of_levels(span: Span, x: Matrix, row: Labels, column: Labels, signs: Matrix, columns: int) -> Matrix:
    """The part of a form that the levels of a span explain. Each row of x (e, p) belongs to a cell and a column."""
    pair = span.levels[row] * columns + column
    distinct, which = np.unique(pair, return_inverse=True)
    sums = _summed(which.reshape(-1), len(distinct)) @ x  # for each pair of a level and a column
    level, at = np.divmod(distinct, columns)
    dimension = np.arange(x.shape[1])
    rows = level[:, None] * len(dimension) + dimension
    where = (rows.ravel(), np.repeat(at, len(dimension)))
    shape = (len(span.counts) * len(dimension), columns)
    scaled = sums / np.sqrt(span.counts)[level][:, None]
    plain = sparse.csr_array((scaled.ravel(), where), shape=shape)
    signed = sparse.csr_array(((scaled * signs).ravel(), where), shape=shape)
    return np.asarray((plain.T @ signed).toarray())


def _of_rest(span: Span, x: Matrix, row: Labels, column: Labels, signs: Matrix, columns: int) -> Matrix:
    """The part of a form that the small basis of a span explains."""
    by_column = _summed(column, columns)
    form = np.zeros((columns, columns))
    for q in span.rest.T:
        sums = by_column @ (q[row][:, None] * x)
        form += (sums * signs) @ sums.T
    return form


def _summed(which: Labels, groups: int) -> Any:
    """A matrix (groups, n) that sums the rows of each group."""
    n = len(which)
    return sparse.csr_array((np.ones(n), (which, np.arange(n))), shape=(groups, n))


class Draws:
    """The draws of a study's cells, prepared once for any number of outcomes."""

    def __init__(self, frame: pd.DataFrame, by: Sequence[str]) -> None:
        self.rows = strata(frame, by)
        donors = borrowed(frame, PANEL)
        self.columns = donors.columns
        self._donors = [donors.of(rows) for rows in self.rows]
        self._panels = [spanned([labels(frame.iloc[rows], PANEL)]) for rows in self.rows]

    def moves(self, of: Sequence[Coordinates], items: Matrix | None = None) -> list[Moves]:
        """The moves of each stratum, in the order of `strata`. In all of them, a column is the same random weight.

        `items` (cells, columns), if given, are further moves: the noise of the evaluated items (`item_noise.py`).
        """
        moves = []
        for rows, c, donors, same in zip(self.rows, of, self._donors, self._panels, strict=True):
            panel = same.fit(c.x)
            x = (c.x - panel)[donors.donor] * donors.factor[:, None]
            moved = Moves(c, panel, donors.row, donors.column, x, self.columns)
            moves.append(moved if items is None else _with_items(moved, items[rows]))
        return moves


def _with_items(moves: Moves, items: Matrix) -> Moves:
    """The moves with those of items (n, columns) after them."""
    n, more = items.shape
    row = np.concatenate([moves.row, np.repeat(np.arange(n), more)])
    column = np.concatenate([moves.column, np.tile(np.arange(more), n) + moves.columns])
    x = np.vstack([moves.x, items.reshape(-1, 1)])
    return Moves(moves.observed, moves.panel, row, column, x, moves.columns + more)


def bootstrap_weights(columns: int, resamples: int, seed: int) -> Matrix:
    """Normal weights (resamples, columns)."""
    return np.random.default_rng(seed).normal(size=(resamples, columns))


def explained(weights: Matrix, form: Matrix) -> NDArray[np.float64]:
    """W'Bw (resamples,) for weights (resamples, columns)."""
    w = np.column_stack([weights, np.ones(len(weights))])
    return np.asarray(((w @ form) * w).sum(axis=1))


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


# Which cells a resampled draw borrows its deviations from: the same cell, under other draws of the same data.

PARTNERS = 8  # a draw borrows from at most this number of draws, itself included
COLUMNS = 480  # about the largest number of weights; studies with more draws borrow from fewer partners


@dataclass(frozen=True)
class Borrowed:
    """Entry e: cell row[e] receives weight[column[e]] * factor[e] times the deviation of cell donor[e]."""

    row: Labels
    donor: Labels
    column: Labels
    factor: NDArray[np.float64]
    columns: int

    def of(self, rows: Labels) -> Borrowed:
        """The entries of some cells, which are numbered anew. Each of these cells has its donors among them."""
        number = np.full(int(max(self.row.max(initial=0), rows.max(initial=0))) + 1, -1)
        number[rows] = np.arange(len(rows))
        kept = number[self.row] >= 0
        row, donor = number[self.row[kept]], number[self.donor[kept]]
        return Borrowed(row, donor, self.column[kept], self.factor[kept], self.columns)


def borrowed(frame: pd.DataFrame, panel: Sequence[str]) -> Borrowed:
    """The donors of every cell. Cells with equal values in the columns `panel` differ only in the draw.

    The draws of the same data are put in a circle, and each borrows from itself and from the next ones. If cells
    are repeats, the first borrows from the first, and so on. The factor makes the variance of a resampled deviation
    that of one draw: with m draws, deviations from their mean are too small by the factor (m - 1) / m.
    """
    cluster, group = labels(frame, DRAW), labels(frame, [name for name in DRAW if name != "draw"])
    position, size = _circle(cluster, group)
    partners = min(PARTNERS, max(2, COLUMNS // (int(cluster.max()) + 1)), int(size.max()))
    same = labels(frame, panel)
    repeat = frame.groupby([same, cluster]).cumcount().to_numpy().astype(np.int64)
    find = _Finder(same, position, repeat)
    entries = [
        (rows, donors, cluster[rows] * partners + step)
        for step in range(partners)
        for rows in [np.flatnonzero(size > step)]
        for rows, donors in [find(rows, (position[rows] + step) % size[rows])]
    ]
    row, donor, column = (np.concatenate(values) for values in zip(*entries, strict=True))
    drawn = pd.Series(cluster).groupby(same).transform("nunique").to_numpy()
    having = np.bincount(row, minlength=len(frame))
    factor = np.sqrt(drawn / np.maximum(drawn - 1, 1) / np.maximum(having, 1))
    return Borrowed(row, donor, column, factor[row], (int(cluster.max()) + 1) * partners)


def _circle(cluster: Labels, group: Labels) -> tuple[Labels, Labels]:
    """The position (n,) of each cell's draw among the draws of the same data, and the number (n,) of these draws."""
    distinct, first = np.unique(cluster, return_index=True)
    of = pd.Series(group[first])
    position, size = of.groupby(of).cumcount().to_numpy(), of.groupby(of).transform("size").to_numpy()
    at = np.searchsorted(distinct, cluster)
    return position[at].astype(np.int64), size[at].astype(np.int64)


class _Finder:
    """Finds the cell of a panel that has a position in the circle."""

    def __init__(self, same: Labels, position: Labels, repeat: Labels) -> None:
        self.same, self.repeat = same, repeat
        self.positions, self.repeats = int(position.max()) + 1, int(repeat.max()) + 1
        place = same * self.positions + position
        self.count = np.bincount(place, minlength=(int(same.max()) + 1) * self.positions)
        key = place * self.repeats + repeat
        self.order = np.argsort(key)
        self.keys = key[self.order]

    def __call__(self, rows: Labels, position: Labels) -> tuple[Labels, Labels]:
        """Those of the rows whose panel has the position (rows,), and the cells there."""
        place = self.same[rows] * self.positions + position
        there = self.count[place] > 0
        rows, place = rows[there], place[there]
        key = place * self.repeats + self.repeat[rows] % self.count[place]
        return rows, self.order[np.searchsorted(self.keys, key)]


# Observations as coordinates, so that numbers and masks share the same algebra.
#
# Gower's centred matrix G = -1/2 J D^2 J (J = I - 11'/n) of distances D holds the inner products of the observations
# after centring. Here it is never computed for all pairs of cells. Instead, X (n, p) and signs s (p,) with
# G = X diag(s) X' are kept. If Q is an orthonormal basis of some columns, these explain the sum of squares
# tr(Q'GQ) = sum over p of s |Q'X|^2 (McArdle and Anderson 2001). For numbers, X is the deviation from the mean,
# and these sums of squares are those of the ordinary analysis of variance.

Matrix = NDArray[np.float64]
TOLERANCE = 1e-8


@dataclass(frozen=True)
class Coordinates:
    """X (n, p) and signs (p,).

    Jaccard distances are not Euclidean, so a few signs can be negative. They are kept, because the sums of squares
    would not add up without them.
    """

    x: Matrix
    signs: Matrix

    def squares(self, x: Matrix) -> float:
        """The sum of squares of vectors x (any, p) in these coordinates."""
        return float((x**2).sum(axis=0) @ self.signs)

    @property
    def total(self) -> float:
        """The sum of squares of all observations, tr(G)."""
        return self.squares(self.x)

    def take(self, rows: NDArray[np.int64]) -> Coordinates:
        """The coordinates of some observations, in a given order."""
        return Coordinates(self.x[rows], self.signs)

    def scaled(self) -> Coordinates:
        """Scaled to a mean square of one. Observations without spread become zero."""
        spread = self.total / max(1, len(self.x) - 1)
        return Coordinates(self.x / np.sqrt(spread) if spread > 1e-12 else self.x * 0, self.signs)


def of_values(values: ArrayLike) -> Coordinates:
    """Coordinates of numbers: deviations from the mean."""
    y = np.asarray(values, float)
    return Coordinates((y - y.mean())[:, None], np.ones(1))


def of_masks(masks: Sequence[Mask]) -> Coordinates:
    """Coordinates of masks, from their Jaccard distances (1 minus the overlap)."""
    words, which = np.unique(mask_overlap.bit_words(masks), axis=0, return_inverse=True)
    shared, sizes = mask_overlap.shared_bits(words[:, None], words), mask_overlap.bit_sizes(words)
    either = sizes[:, None] + sizes - shared
    return of_distances(np.where(either > 0, 1.0 - shared / np.maximum(either, 1), 0.0), which.reshape(-1))


def of_distances(distances: ArrayLike, which: NDArray[np.int64] | None = None) -> Coordinates:
    """Principal coordinates of points with the distances (u, u).

    If `which` (n,) is given, observation i is the point `which[i]`, and only matrices of the size u are computed: if
    E (n, u) are the indicators of the points and N = E'E, then G = E H E', and the eigenvectors of G are
    E N^-1/2 V, where V are those of N^1/2 H N^1/2.
    """
    squared = np.asarray(distances, float) ** 2
    which = np.arange(len(squared)) if which is None else which
    counts = np.bincount(which, minlength=len(squared)).astype(float)
    mean = squared @ counts / counts.sum()
    inner = -0.5 * (squared - mean - mean[:, None] + counts @ mean / counts.sum())
    root = np.sqrt(counts)
    values, vectors = linalg.eigh(inner * root * root[:, None])
    kept = np.abs(values) > TOLERANCE * np.abs(values).max(initial=1e-300)
    points = vectors[:, kept] * np.sqrt(np.abs(values[kept])) / root[:, None]
    return Coordinates(points[which], np.sign(values[kept]))


# Shares and ratios of variance components with their intervals, as figure 5 and the report show them.

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


# Would noise alone lead to the verdict? Studies are simulated in which all masks are equally accurate.
#
# Each distinct mask gets an accuracy that is noise; equal masks get the same. Few distinct masks exist within a
# setting, so noise alone makes settings differ more than searches. A verdict that such studies reach too often is no
# verdict.

MOST = 0.05  # a verdict that noise alone reaches in more than this share of studies is inconclusive
STUDIES = 60  # simulated studies; fewer if the answer is clear earlier
RESAMPLES = 199


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
    subtracted, as in the study. Without answers, the accuracies of distinct masks are independent normal numbers, and
    no noise can be subtracted. The simulation ends early if it is certain that the verdict comes too often.
    """
    design, rng = Design(frame), np.random.default_rng(seed)
    mask = labels(frame.assign(dropped=frame["dropped"].map(str)), ["model", "dropped"])
    decided = 0
    for number in range(1, STUDIES + 1):
        noise = None if answers is None else _redrawn(answers, mask, rng)
        y = rng.normal(size=mask.max() + 1)[mask] if noise is None else _accuracy(noise)
        items = None if noise is None else item_noise(noise)
        found = design.shares([of_values(y[rows]) for rows in design.rows], RESAMPLES, number, items)
        decided += found.total_ratio.leaves_out(1)
        if stats.binomtest(decided, number).proportion_ci(0.98).low > MOST and decided >= 4:
            return NoiseAlone(decided, number)
    return NoiseAlone(decided, STUDIES)


def _redrawn(
    answers: Mapping[str, Matrix], mask: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, Matrix]:
    """Answers (cells, items) to items drawn anew, of masks that all have the same true accuracy in a task."""
    first = np.unique(mask, return_index=True)[1]
    redrawn = {}
    for task, of_task in answers.items():
        distinct = of_task[first]
        alike = distinct - distinct.mean(axis=1, keepdims=True) + distinct.mean()
        n = alike.shape[1]
        redrawn[task] = alike[:, rng.integers(n, size=n)][mask]
    return redrawn


def _accuracy(answers: Mapping[str, Matrix]) -> NDArray[np.float64]:
    """The mean accuracy (cells,) over tasks, in percent."""
    return np.asarray(100 * np.mean([of_task.mean(axis=1) for of_task in answers.values()], axis=0))


# Plausible true components of one stratum: those under which the observed sums of squares would not be surprising.
#
# Generalised intervals (Weerahandi 1993) take, for each resample, the true value that would have given the observed
# sum of squares if nature had drawn as the resample did. Here the drawing is that of `bootstrap.py`.
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
class DrawnSquares:
    """Sums of squares of resamples: of the panel alone (names,), and of its noise (resamples, names)."""

    fixed: Matrix
    linear: Matrix
    quadratic: Matrix

    @property
    def whole(self) -> Matrix:
        """The sums of squares (resamples, names)."""
        return np.asarray(self.fixed + self.linear + self.quadratic)


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


def widened(observed: Matrix, drawn: Matrix) -> NDArray[np.float64]:
    """Plausible expected sums of squares (resamples, names): observed / (drawn / mean drawn); 0 if all are 0."""
    factor = drawn / np.where(drawn.mean(axis=0) > 0, drawn.mean(axis=0), 1.0)
    return np.asarray(np.where(factor > 0, observed / np.where(factor > 0, factor, 1.0), 0.0))


def plausible(solver: Solver, observed: Matrix, items: Matrix, drawn: DrawnSquares) -> PlausibleComponents:
    """Components from observed sums of squares (names,), of which `items` (names,) is the noise of items."""
    noise = solver.noise
    estimate = solver.components(observed - items)
    between_noise = solver.coefficients[np.ix_(noise, noise)]
    right = widened(observed[noise], drawn.whole[:, noise]) - items[noise]
    true = np.zeros((len(right), len(noise)))
    true[:, noise] = np.linalg.solve(between_noise, right.T).T
    expected, likely = (solver.expected_noise(c) + items for c in (estimate, true))
    square = np.maximum(np.where(expected > 0, likely / np.where(expected > 0, expected, 1.0), 0.0), 0.0)
    moved = np.sqrt(square) * drawn.linear + square * (drawn.quadratic - drawn.quadratic.mean(axis=0))
    left = observed - moved - square * expected
    own = np.diag(solver.coefficients)
    true[:, ~noise] = (left / own)[:, ~noise]
    centre = drawn.fixed / own
    centre[noise] = np.linalg.solve(between_noise, (drawn.whole.mean(axis=0) - items)[noise])
    repeated = solver.components(drawn.whole - items)
    return PlausibleComponents(*(solver.spread_out(c) for c in (estimate, true, repeated, centre)))


# The sources of variation of a study: their levels, and the labels that each permutation test may exchange.

Rows = NDArray[np.int64]
DRAWN = "draw (seed)"
RESIDUAL = "draw x algorithm, rest"


@dataclass(frozen=True)
class VarianceSource:
    """One source of variation: the columns that define its levels, and how its test permutes.

    `columns` define its levels. `given` are the groups of columns that its test fits first. Under the null
    hypothesis, the labels in the column `moved` can be exchanged among units of the same block. The columns `units`
    define the units, and the columns `blocks` define the blocks. If `moved` is empty,
    no labels are exchangeable, and the test permutes residuals instead.
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


def _nested() -> list[VarianceSource]:
    """The nested sources of the calibration: objective, its data, number of samples, length.

    The tests exchange whole settings, like whole plots in a split-plot design. All algorithms and ratios of a setting
    stay together.
    """
    names = ("objective", "calibration data", "samples", "length")
    sources = []
    for i, (name, column) in enumerate(zip(names, CONFIGURATION, strict=True)):
        parents = tuple(CONFIGURATION[:i])
        given = (parents, ("algo",)) if parents else (("algo",),)
        sources.append(VarianceSource(name, (*parents, column), given, column, tuple(SETTING), parents))
    return sources


_CELL, _PANEL = (*STRATUM, *SETTING, "algo"), (*CONFIGURATION, "algo")
SOURCES = (
    *_nested(),
    VarianceSource(DRAWN, tuple(SETTING), (_PANEL,), "draw", _CELL, (*STRATUM, *_PANEL)),
    VarianceSource("algorithm", ("algo",), (tuple(SETTING),), "algo", _CELL, (*STRATUM, *SETTING)),
    VarianceSource("objective x algorithm", ("objective", "algo"), (tuple(SETTING), ("algo",))),
)
CALIBRATION = ("objective", "calibration data", "samples", "length", DRAWN)
SEARCH = ("algorithm",)
INTERACTION = ("objective x algorithm", RESIDUAL)


def strata(frame: pd.DataFrame, by: Sequence[str] = STRATUM) -> list[Rows]:
    """The row numbers of each stratum."""
    stratum = labels(frame, by)
    return [np.flatnonzero(stratum == level) for level in np.unique(stratum)]


def sequential(spans: Spans) -> dict[str, Addition]:
    """For one stratum, what each source adds to the sources before it, and the residual."""
    before: list[tuple[str, ...]] = []
    added = {}
    for source in SOURCES:
        added[source.name] = spans.addition(source.columns, before)
        before.append(source.columns)
    return {**added, RESIDUAL: Addition(spans.whole, spans.of(before))}


def marginal(spans: Spans, source: VarianceSource) -> Addition:
    """What a source explains beyond all sources that do not contain it (type II)."""
    others = [s.columns for s in SOURCES if not set(source.columns) <= set(s.columns)]
    return spans.addition(source.columns, others)


def adjusted(spans: Spans) -> dict[str, Addition]:
    """What each source of a stratum explains beyond the others, and the residual."""
    every = {source.name: marginal(spans, source) for source in SOURCES}
    return {**every, RESIDUAL: Addition(spans.whole, spans.of([source.columns for source in SOURCES]))}


# In how many simulated studies a ratio of shares is decided, if each configuration has another number of draws.
#
# The studies are simulated (`simulated.py`) with the shares and the noise that a study which was run has. They have
# its objectives, data and searches; objectives share samples as they do in that study.

RATIOS = {
    "calibration : search": CALIBRATION,
    "objective : search": OBJECTIVE,
}  # each: search, interaction on both sides
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


def power_refusal(frame: pd.DataFrame, shares: Shares) -> str:
    """The reason why a study is no pilot; empty if it is one."""
    return shares.note if shares.sources.empty else unknown_noise(frame)


def power(scenario: Scenario, studies: int, resamples: int = POWER_RESAMPLES) -> dict[str, Decided]:
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


# Simulated studies whose variance components are known.
#
# Effects of objectives, data and searches are fixed: in every stratum they have exactly the asked variance (ddof 1)
# over the levels of the study. Draws and the rest are normal and new in every study.


def with_draws(frame: pd.DataFrame, draws: int) -> pd.DataFrame:
    """The cells of a study of the same design, with this number of draws of every configuration and search.

    There is one cell for each search and draw, even if the study has repeats.
    """
    panels = frame[PANEL].drop_duplicates()
    return panels.merge(pd.DataFrame({"draw": range(draws)}), how="cross")


@dataclass(frozen=True)
class Scenario:
    """True components by the names of sources, the same in every stratum. A source that is not named has no effect.

    Cells with equal values in the columns `draw` have the same effect of their draw. By default these are the cells
    of all strata, and of all objectives that read the same samples. `noise` has, for DRAWN and RESIDUAL, the
    variances of objectives relative to each other, if they differ. `dimensions` is the number of independent
    coordinates of an outcome: 1 for a number, more for a mask.
    """

    design: Design
    components: Mapping[str, float]
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
            for stratum, rows in enumerate(self.design.rows):
                y[rows] += self._effect(name, stratum, rng)
        return np.asarray(y / np.sqrt(self.dimensions))

    def shares(self, seed: int, resamples: int) -> Shares:
        """The shares that the analysis estimates from the study of this seed."""
        parts = [self.study(seed)[rows] for rows in self.design.rows]
        of = [Coordinates(y - y.mean(axis=0), np.ones(self.dimensions)) for y in parts]
        return self.design.shares(of, resamples, seed)

    @cached_property
    def _draws(self) -> Labels:
        """The number (cells,) of the draw effect of each cell, in the order in which draws appear."""
        return np.asarray(pd.factorize(labels(self.design.frame, self.draw))[0], np.int64)

    @cached_property
    def _fixed(self) -> dict[str, list[Labels]]:
        """The sources with fixed effects, each with the levels (rows,) of the cells of every stratum."""
        parts = [self.design.frame.iloc[rows] for rows in self.design.rows]
        names = [n for n in SOLVED_COLUMNS if n not in NOISE and self.components.get(n, 0.0) > 0]
        return {name: [labels(part, SOLVED_COLUMNS[name]) for part in parts] for name in names}

    def _effect(self, name: str, stratum: int, rng: np.random.Generator) -> Matrix:
        """Random effects (rows, dimensions) of a source in a stratum, with exactly the variance of its component."""
        levels, added = self._fixed[name][stratum], self.design.added[stratum][name]
        effect = added.fit(rng.normal(size=(levels.max() + 1, self.dimensions))[levels])
        if not added.df:
            return np.zeros_like(effect)
        solver = self.design.solvers[stratum]
        at = solver.names.index(name)
        square = self.components[name] * solver.coefficients[at, at] * self.dimensions
        return np.asarray(effect * np.sqrt(square / (effect**2).sum()))

    def _sizes(self, name: str) -> Matrix:
        """The standard deviation (cells, 1) of a source of noise. Its mean square is the component."""
        variances = self.noise.get(name, {})
        relative = np.array([variances.get(o, 1.0) for o in self.design.frame["objective"]])
        return np.asarray(np.sqrt(self.components.get(name, 0.0) * relative / relative.mean())[:, None])


# The equations of variance components in one stratum: from sums of squares to components.
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

SOLVED_COLUMNS = {source.name: source.columns for source in SOURCES}
EVERY = (*SOLVED_COLUMNS, RESIDUAL)
NOISE = (DRAWN, RESIDUAL)


class Solver:
    """The equations of one stratum, from what each source adds. `names` are the sources with levels to compare."""

    def __init__(self, part: pd.DataFrame, added: Mapping[str, Addition]) -> None:
        self.df = {name: added[name].df for name in EVERY}
        self.names = [name for name in EVERY if self.df[name]]
        self.coefficients = np.zeros((len(self.names), len(self.names)))
        for i, name in enumerate(self.names):
            z = None if name == RESIDUAL else indicator(labels(part, SOLVED_COLUMNS[name]))
            for j, other in enumerate(self.names):
                if i == j or name in NOISE:
                    # tr(Q'ZZ'Q); for the residual, Z is the identity.
                    trace = added[other].df if z is None else (added[other].fit(z) ** 2).sum()
                    self.coefficients[j, i] = float(trace)
        self.noise = np.array([name in NOISE for name in self.names])

    def components(self, squares: Matrix) -> NDArray[np.float64]:
        """The components (..., names) for sums of squares (..., names)."""
        return np.asarray(np.linalg.solve(self.coefficients, np.asarray(squares).T).T)

    def expected_noise(self, components: Matrix) -> NDArray[np.float64]:
        """What draw and residual are expected to add to each sum of squares (..., names)."""
        return np.asarray(components[..., self.noise] @ self.coefficients[:, self.noise].T)

    def spread_out(self, values: Matrix) -> NDArray[np.float64]:
        """Values (..., names) in the order of EVERY. Sources without levels to compare get 0."""
        whole = np.zeros((*values.shape[:-1], len(EVERY)))
        whole[..., [EVERY.index(name) for name in self.names]] = values
        return whole

    def refusal(self) -> str:
        """Why no component can be computed; empty if the cells suffice."""
        if not any(self.df[name] for name in CALIBRATION):
            return "one calibration only: nothing to compare the search with"
        if not self.df["algorithm"]:
            return "one algorithm only: nothing to compare the calibration with"
        if self.df[RESIDUAL] < 3:
            return f"{self.df[RESIDUAL]} degrees of freedom are left for noise; at least 3 are needed"
        return ""


# Projections onto the levels of factors, in time and memory that are linear in the number of cells.
#
# A stratum can have hundreds of settings, and a dense basis of their indicators would have a column for each. But
# levels of one factor are orthogonal, and projecting onto them is taking means. So a span is kept as the levels of
# its finest factor and a small basis of what the other factors add.

Columns = tuple[str, ...]


@dataclass(frozen=True)
class Span:
    """The span of the indicators of `levels` (n,), numbered from 0 without gaps, and of an orthonormal basis `rest`.

    `rest` (n, r) is orthogonal to the indicators.
    """

    levels: Labels
    rest: Matrix

    @cached_property
    def counts(self) -> Matrix:
        """The number of rows of each level."""
        return np.bincount(self.levels).astype(float)

    @property
    def df(self) -> int:
        """The dimension."""
        return len(self.counts) + int(self.rest.shape[1])

    @cached_property
    def _basis(self) -> Any:
        """The normalised indicators, transposed (levels, n)."""
        n = len(self.levels)
        data = 1 / np.sqrt(self.counts)[self.levels]
        return sparse.csr_array((data, (self.levels, np.arange(n))), shape=(len(self.counts), n))

    def along(self, x: Matrix) -> Matrix:
        """The coefficients (df, p) of x (n, p) in an orthonormal basis of the span."""
        return np.vstack([self._basis @ x, self.rest.T @ x])

    def along_indicators(self, x: Any) -> Matrix:
        """The coefficients (m, df) of the rows of a sparse matrix x (m, n)."""
        return np.hstack([(x @ self._basis.T).toarray(), x @ self.rest])

    def fit(self, x: Matrix) -> Matrix:
        """The projection (n, p) of x (n, p)."""
        return np.asarray(self._basis.T @ (self._basis @ x) + self.rest @ (self.rest.T @ x))


@dataclass(frozen=True)
class Addition:
    """What a span adds to a smaller one that it contains: a source of variation."""

    span: Span
    after: Span

    @property
    def df(self) -> int:
        """Degrees of freedom."""
        return self.span.df - self.after.df

    def fit(self, x: Matrix) -> Matrix:
        """The projection (n, p) of x (n, p) onto what is added."""
        return self.span.fit(x) - self.after.fit(x)

    def squares(self, of: Coordinates) -> float:
        """The sum of squares that is explained."""
        return of.squares(self.fit(of.x))


class Spans:
    """The spans of groups of columns over the cells of a stratum. Each is computed once."""

    def __init__(self, part: pd.DataFrame) -> None:
        self._part = part
        self._known: dict[frozenset[Columns], Span] = {}

    def of(self, groups: Iterable[Sequence[str]]) -> Span:
        """The span of the mean and of the levels of each group of columns."""
        every = {tuple(group) for group in groups} | {()}
        # The levels of fewer columns are unions of levels of more columns, so they add nothing.
        finest = frozenset(g for g in every if not any(set(g) < set(other) for other in every))
        if finest not in self._known:
            self._known[finest] = spanned([labels(self._part, group) for group in sorted(finest)])
        return self._known[finest]

    @property
    def whole(self) -> Span:
        """The span that contains everything."""
        n = len(self._part)
        return Span(np.arange(n), np.zeros((n, 0)))

    def addition(self, columns: Sequence[str], given: Sequence[Sequence[str]]) -> Addition:
        """What the levels of `columns` add to the levels of `given`."""
        return Addition(self.of([*given, columns]), self.of(given))


def spanned(factors: Sequence[Labels]) -> Span:
    """The span of the levels of some factors, each (n,)."""
    numbered = [np.unique(factor, return_inverse=True)[1].astype(np.int64) for factor in factors]
    numbered.sort(key=lambda levels: -int(levels.max(initial=0)))
    span = Span(numbered[0], np.zeros((len(numbered[0]), 0)))
    for levels in numbered[1:]:
        columns = indicator(levels)
        u, sizes, _ = linalg.svd(columns - span.fit(columns), full_matrices=False)
        added = u[:, sizes > TOLERANCE * max(1.0, float(np.sqrt(len(columns))))]
        span = Span(span.levels, np.hstack([span.rest, added]))
    return span
