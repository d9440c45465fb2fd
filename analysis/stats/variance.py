"""What explains the outcomes of a study: sums of squares of factors and interactions, with permutation p-values.

For masks, the method is PERMANOVA (Anderson 2001) on Jaccard distance. For numbers, it is the analysis of variance
with p-values from permutations. Distances between masks of different models are undefined, so everything is measured
within strata (one model and one k) and summed over strata. `between` measures how outcomes differ across strata.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse, stats

from . import components, mask_overlap
from .components import RESIDUAL, SOURCES, Moves, VarianceSource, marginal, sequential, strata
from .grid import SETTING, STRATUM, Labels, labels, masks
from .projections import Addition, Coordinates, Matrix, Subspace, Subspaces, of_masks, of_values


def outcome(frame: pd.DataFrame, values: ArrayLike | None, by: Sequence[str] = STRATUM) -> list[Coordinates]:
    """The coordinates of each stratum, scaled to a mean square of one. `values` are numbers, or None for masks.

    The scale gives every stratum the same weight in tests, whatever its spread. A stratum without spread is zero.
    """
    return [c.scaled() for c in plain(frame, values, by)]


def plain(frame: pd.DataFrame, values: ArrayLike | None, by: Sequence[str] = STRATUM) -> list[Coordinates]:
    """The coordinates of each stratum in the units of the outcome. `values` are numbers, or None for masks."""
    if values is None:
        return [of_masks(masks(frame.iloc[rows])) for rows in strata(frame, by)]
    y = np.asarray(values, float)
    return [of_values(y[rows]) for rows in strata(frame, by)]


def table(
    frame: pd.DataFrame,
    of: Sequence[Coordinates],
    by: Sequence[str] = STRATUM,
    permutations: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per source: df, sequential and marginal sum of squares, share, pseudo-F, p, note if p is missing."""
    parts = [Subspaces(frame.iloc[rows]) for rows in strata(frame, by)]
    added = [sequential(part) for part in parts]
    total = sum(c.total for c in of)
    rest, rest_df = squares(of, [a[RESIDUAL] for a in added])
    nan = float("nan")
    rows = []
    for source in SOURCES:
        ss, df = squares(of, [a[source.name] for a in added])
        adjusted, _ = squares(of, [marginal(part, source) for part in parts])
        f = ss / df / (rest / rest_df) if df and rest_df and rest > 1e-12 else nan
        p, note = p_value(frame, of, source, by, permutations, seed) if df else (nan, "one level")
        rows.append([source.name, df, ss, ss / total if total else nan, adjusted, f, p, note])
    rows.append([RESIDUAL, rest_df, rest, rest / total if total else nan, rest, nan, nan, ""])
    return pd.DataFrame(rows, columns=["source", "df", "ss", "share", "marginal_ss", "f", "p", "note"])


def squares(of: Sequence[Coordinates], added: Sequence[Addition]) -> tuple[float, int]:
    """The sum of squares that a source explains, summed over strata, and its degrees of freedom."""
    return sum(a.squares(c) for c, a in zip(of, added, strict=True)), sum(a.df for a in added)


# How outcomes differ across models and ratios: shares of the sum of squares, with intervals and p-values.
#
# Model and ratio are crossed with all other factors. So the test of model exchanges the labels of models among
# cells that have equal values of all other factors, and the test of ratio exchanges the labels of ratios in the
# same way. For interactions, residuals are permuted. Intervals use the resamples of `components`.

_OTHERS, _REST = tuple(SETTING), (*SETTING, "algo")
_ADDITIVE = (("model", "ratio"), _OTHERS, ("algo",))
BETWEEN = (
    VarianceSource("model", ("model",), (("ratio",), _REST), "model", (*STRATUM, *_REST), ("ratio", *_REST)),
    VarianceSource("ratio", ("ratio",), (("model",), _REST), "ratio", (*STRATUM, *_REST), ("model", *_REST)),
    VarianceSource("model x ratio", ("model", "ratio"), (("model",), ("ratio",), _REST)),
    VarianceSource("model x objective", ("model", "objective"), _ADDITIVE),
    VarianceSource("model x algorithm", ("model", "algo"), _ADDITIVE),
    VarianceSource("ratio x objective", ("ratio", "objective"), _ADDITIVE),
    VarianceSource("ratio x algorithm", ("ratio", "algo"), _ADDITIVE),
)


def between(
    frame: pd.DataFrame,
    values: ArrayLike | None,
    by: Sequence[str] = (),
    permutations: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """How much an outcome depends on model, on ratio, and on their interactions with objective and algorithm.

    `values` are numbers, or None for masks. Each source is adjusted for the columns in its `given`. `share` is
    the source's part of the sum of squares over all cells. If there are enough draws, it has an interval. If `by`
    is given, everything is measured within the levels of these columns.
    """
    of = outcome(frame, values, by)
    parts = [Subspaces(frame.iloc[rows]) for rows in strata(frame, by)]
    added = [[part.addition(source.columns, source.given) for part in parts] for source in BETWEEN]
    total = sum(c.total for c in of)
    sums = [squares(of, source_added) for source_added in added]
    shares = np.array([ss for ss, _ in sums]) / total if total else np.full(len(added), np.nan)
    ends: Matrix = np.full((2, len(added)), np.nan)
    if not components.refusal(frame):
        moves = components.Draws(frame, by).moves(of)
        weights = components.bootstrap_weights(moves[0].columns, permutations, seed)
        whole = _explained_of(moves, [Addition(part.whole, part.of(())) for part in parts], weights)
        drawn = np.column_stack([_explained_of(moves, each, weights) for each in added])
        drawn = np.where(whole[:, None] != 0, drawn / np.where(whole == 0, 1.0, whole)[:, None], np.nan)
        # The error of a share is taken to be a resample minus the mean of all resamples (Hall's basic interval).
        # Few draws give intervals that are too short, so it is multiplied by t / z (Cameron and Miller 2015, VI).
        wider = stats.t.ppf(0.975, components.count(frame) - 1) / stats.norm.ppf(0.975)
        likely = shares - wider * (drawn - drawn.mean(axis=0))
        ends = np.asarray(np.clip(np.quantile(likely, [0.025, 0.975], axis=0), 0.0, 1.0))
    rows = []
    for source, (ss, df), share, low, high in zip(BETWEEN, sums, shares, *ends, strict=True):
        p, note = p_value(frame, of, source, by, permutations, seed) if df else (np.nan, "one level")
        shown = [share, low, high] if total and df else [np.nan] * 3
        rows.append([source.name, df, ss, *shown, p, note])
    return pd.DataFrame(rows, columns=["source", "df", "ss", "share", "low", "high", "p", "note"])


def _explained_of(moves: Sequence[Moves], added: Sequence[Addition], weights: Matrix) -> Matrix:
    """The sums of squares (resamples,) over all strata that a source explains in resamples."""
    forms = [m.added_form(a) for m, a in zip(moves, added, strict=True)]
    return components.explained(weights, np.sum(forms, axis=0))


# Permutation tests of the sources of variation. Labels are exchanged only as the null hypothesis allows.

LEAST_P = 0.05  # a test is refused if no arrangement could give a p-value this small
CHUNK = 2_000_000  # numbers in the largest array of a test: 16 MB
ENOUGH = 1e9  # larger numbers of arrangements are reported as this number


def p_value(
    frame: pd.DataFrame,
    of: Sequence[Coordinates],
    source: VarianceSource,
    by: Sequence[str],
    permutations: int = 999,
    seed: int = 0,
) -> tuple[float, str]:
    """A pair: the p-value and an empty note, or NaN and the reason for it. `of` is in the order of `strata`."""
    parts = exchanges(frame, of, source, by)
    rng = np.random.default_rng(seed)
    if not source.moved:
        return _residual_test(source, parts, permutations, rng)
    shuffle = Shuffle(frame, source)
    if len(np.unique(shuffle.values)) < 2:
        return float("nan"), "one level"
    if shuffle.arrangements < 1 / LEAST_P:
        found = round(shuffle.arrangements)
        return float("nan"), f"too few units to exchange: {found} arrangement{'s' * (found != 1)}"
    moved = np.vstack([shuffle.values, shuffle.draws(rng, permutations)])
    sums = sum(_explained(shuffle.levels(moved, part.rows), part.given, part.rest) for part in parts)
    observed, *null = np.asarray(sums).tolist()
    return _p(observed, null, permutations), ""


def _p(observed: float, null: Iterable[float], permutations: int) -> float:
    """(1 + number of null values that reach the observed one) / (1 + permutations). This p-value is never zero."""
    reached = sum(value >= observed - 1e-9 * abs(observed) - 1e-12 for value in null)
    return (1 + reached) / (permutations + 1)


@dataclass(frozen=True)
class Exchange:
    """Cells whose sums of squares are computed together: their rows, what is fitted first, and the residuals."""

    rows: Labels
    spaces: Subspaces
    given: Subspace
    rest: Coordinates


def exchanges(
    frame: pd.DataFrame, of: Sequence[Coordinates], source: VarianceSource, by: Sequence[str]
) -> list[Exchange]:
    """The parts of each stratum whose sums of squares can be computed apart."""
    parts: list[Exchange] = []
    for stratum, whole in zip(strata(frame, by), of, strict=True):
        for part in mask_overlap.members(labels(frame.iloc[stratum], source.apart)):
            spaces, coordinates = Subspaces(frame.iloc[stratum[part]]), whole.take(part)
            given = spaces.of(source.given)
            rest = Coordinates(coordinates.x - given.fit(coordinates.x), coordinates.signs)
            parts.append(Exchange(stratum[part], spaces, given, rest))
    return parts


class Shuffle:
    """Shuffles the labels of a source among units of the same block, as its null hypothesis allows."""

    def __init__(self, frame: pd.DataFrame, source: VarianceSource) -> None:
        self.unit = labels(frame, source.units)
        _, first = np.unique(self.unit, return_index=True)
        self.values = labels(frame, [source.moved])[first]
        self.blocks = list(mask_overlap.members(labels(frame, source.blocks)[first]))
        self.parents = labels(frame, [c for c in source.columns if c != source.moved])

    def draws(self, rng: np.random.Generator, draws: int) -> Labels:
        """Labels of the units (draws, units), shuffled within blocks."""
        moved = np.tile(self.values, (draws, 1))
        alike = [np.array(list(same)) for _, same in groupby(self.blocks, len)]  # in order, by equal size
        for row in moved:
            for blocks in alike:
                row[blocks] = rng.permuted(row[blocks], axis=1)
        return moved

    def levels(self, moved: Labels, rows: Labels) -> Labels:
        """The levels (draws, n) of the source in `rows`, given labels of the units (draws, units)."""
        return self.parents[rows] * (int(self.values.max()) + 1) + moved[:, self.unit[rows]]

    @property
    def arrangements(self) -> float:
        """An upper bound for the number of distinct values of the statistic. Renamed levels count once."""
        total = 0.0
        for block in self.blocks:
            _, sizes = np.unique(self.values[block], return_counts=True)
            total += math.lgamma(len(block) + 1) - sum(math.lgamma(size + 1) for size in sizes)
        _, sizes = np.unique(self.values, return_counts=True)
        alike = np.unique(sizes, return_counts=True)[1]
        total -= sum(math.lgamma(count + 1) for count in alike)
        return min(ENOUGH, round(math.exp(min(total, 30.0)), 6))


def _explained(levels: Labels, given: Subspace, rest: Coordinates) -> Matrix:
    """Sums of squares (draws,) that `levels` (draws, n) add to the columns `given`, by the normal equations.

    They are tr((X'MX)^+ X'RX) with M = I - QQ'. X holds the indicators of the levels of one draw; R is the residual
    matrix with the coordinates `rest`; Q is a basis of `given`. A level that a draw lacks is a column of zeros and
    adds nothing.
    """
    distinct, codes = np.unique(levels, return_inverse=True)
    codes = codes.reshape(levels.shape)
    at_once = max(1, CHUNK // (len(distinct) * (given.df + len(rest.signs)) + levels.shape[1]))
    chunks = [codes[i : i + at_once] for i in range(0, len(codes), at_once)]
    return np.concatenate([_explained_at_once(chunk, len(distinct), given, rest) for chunk in chunks])


def _explained_at_once(codes: Labels, n_levels: int, given: Subspace, rest: Coordinates) -> Matrix:
    """`_explained` of some draws, whose levels are 0 to `n_levels` - 1."""
    draws, n = codes.shape
    row = (codes + n_levels * np.arange(draws)[:, None]).ravel()
    column = np.tile(np.arange(n), draws)
    x = sparse.csr_array((np.ones(len(row)), (row, column)), shape=(draws * n_levels, n))
    fit = given.along_indicators(x).reshape(draws, n_levels, -1)
    sums = (x @ rest.x).reshape(draws, n_levels, -1)
    counts = x.sum(axis=1).reshape(draws, n_levels, 1)
    if n_levels <= given.df:
        matrices = counts * np.eye(n_levels) - fit @ fit.transpose(0, 2, 1)
        # In a complete grid, all draws have the same matrix.
        distinct = matrices[:1] if (matrices == matrices[0]).all() else matrices
        inverse = np.linalg.pinv(distinct, rcond=1e-9, hermitian=True)
        return np.asarray(((inverse @ sums) * sums * rest.signs).sum(axis=(1, 2)))
    # The levels are orthogonal, so they are fitted first. What the given columns add to them is the rest of the sum
    # of squares of both together, and the given columns alone explain nothing of residuals.
    root = np.sqrt(np.maximum(counts, 1))
    fit, sums = fit / root, sums / root
    along = fit.transpose(0, 2, 1) @ sums
    values, vectors = np.linalg.eigh(np.eye(fit.shape[2]) - fit.transpose(0, 2, 1) @ fit)
    along = vectors.transpose(0, 2, 1) @ along
    weight = np.where(values > 1e-9, 1 / np.maximum(values, 1e-9), 0.0)[:, :, None]
    return np.asarray((sums**2 @ rest.signs).sum(axis=1) + (weight * along**2 @ rest.signs).sum(axis=1))


def _residual_test(
    source: VarianceSource, parts: Sequence[Exchange], permutations: int, rng: np.random.Generator
) -> tuple[float, str]:
    """Permute residuals of the reduced model within strata (Freedman and Lane 1983). The p-value is approximate."""
    added = [part.spaces.addition(source.columns, source.given) for part in parts]
    df = sum(a.df for a in added)
    left = sum(len(part.rows) - part.given.df for part in parts) - df
    if df == 0:
        return float("nan"), "one level"
    if left < 1:
        return float("nan"), "no cells left over to test it against"
    total = sum(part.rest.total for part in parts)

    def statistic(orders: Sequence[Labels]) -> float:
        moved = [part.rest.take(order) for part, order in zip(parts, orders, strict=True)]
        # Permuted residuals are no longer orthogonal to the given columns, so the part along these is subtracted.
        before = sum(m.squares(part.given.along(m.x)) for part, m in zip(parts, moved, strict=True))
        ss = sum(m.squares(a.span.along(m.x)) for a, m in zip(added, moved, strict=True)) - before
        return ss / max(total - before - ss, 1e-12)

    draw = (statistic([rng.permutation(len(part.rows)) for part in parts]) for _ in range(permutations))
    return _p(statistic([np.arange(len(part.rows)) for part in parts]), draw, permutations), ""
