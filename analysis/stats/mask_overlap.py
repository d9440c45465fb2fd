"""Jaccard overlap of masks, compared with the overlap of random masks.

Null model: each mask is a uniformly random set of its size among the blocks that may be removed. Then the
number of shared blocks is hypergeometric, which gives the expected overlap and an exact p-value.

`corrected` and `p_value` are for one pair. `MaskSet` gives the same numbers for many pairs at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from pruning.core.mask import Mask

from .agreement import controlled
from .grid import CELL, COMPARISONS, DRAW, STRATUM, Labels, groups, labels, masks, n_open, several_sizes
from .means import CellDraws, DrawMean, over_pairs

NAN = float("nan")


@cache
def expected(n_open: int, a: int, b: int) -> float:
    """Mean Jaccard overlap of two independent random sets, of sizes a and b, among `n_open` blocks."""
    shared = np.arange(max(0, a + b - n_open), min(a, b) + 1)
    return float(stats.hypergeom.pmf(shared, n_open, a, b) @ (shared / (a + b - shared)))


def corrected(first: Mask, second: Mask, n_open: int) -> float:
    """(J - E[J]) / (max J - E[J]): 0 is the value expected by chance; 1 is the maximum for two sets of these sizes.

    For equal sizes max J is 1. The result is NaN if a mask removes all open blocks, because then E[J] = max J.
    """
    a, b = sorted((len(first.dropped), len(second.dropped)))
    chance, most = expected(n_open, a, b), a / b
    return (first.jaccard(second) - chance) / (most - chance) if most - chance > 1e-12 else NAN


def p_value(first: Mask, second: Mask, n_open: int) -> float:
    """Exact probability that two random sets of these sizes share at least as many blocks as the two masks."""
    shared = len(set(first.dropped) & set(second.dropped))
    return _tail(shared, n_open, len(first.dropped), len(second.dropped))


@cache
def _tail(shared: int, n_open: int, a: int, b: int) -> float:
    return float(stats.hypergeom.sf(shared - 1, n_open, a, b))


@dataclass(frozen=True)
class MaskSet:
    """Masks as words, the number of blocks that each removes, and the number that it could have removed."""

    words: Words
    sizes: Labels
    open: Labels

    @classmethod
    def of(cls, frame: pd.DataFrame) -> MaskSet:
        """The masks of finished cells."""
        words = bit_words(masks(frame))
        return cls(words, bit_sizes(words), n_open(frame).to_numpy().astype(np.int64))

    def pairs(self, first: Labels, second: Labels, others: MaskSet | None = None) -> Pairs:
        """The pairs of rows `first` with rows `second`. If `others` is given, `second` are its rows."""
        other = others if others is not None else self
        shared = shared_bits(self.words[first], other.words[second])
        return Pairs(shared, self.sizes[first], other.sizes[second], self.open[first])


@dataclass(frozen=True)
class Pairs:
    """For each pair: the shared blocks, the blocks that each mask removes, and the blocks open to the first."""

    shared: Labels
    a: Labels
    b: Labels
    open: Labels

    @property
    def jaccard(self) -> NDArray[np.float64]:
        """As `Mask.jaccard`."""
        either = self.a + self.b - self.shared
        return np.where(either > 0, self.shared / np.maximum(either, 1), 1.0)

    @property
    def corrected(self) -> NDArray[np.float64]:
        """As `corrected`."""
        small, large = np.minimum(self.a, self.b), np.maximum(self.a, self.b)
        chance = _each(expected, self.open, small, large)
        with np.errstate(invalid="ignore", divide="ignore"):
            room = small / large - chance
            return np.where(room > 1e-12, (self.jaccard - chance) / room, np.nan)

    @property
    def lowest(self) -> NDArray[np.float64]:
        """The lowest possible `corrected`: the masks share as few blocks as there must be in both."""
        return replace(self, shared=np.maximum(0, self.a + self.b - self.open)).corrected

    @property
    def p(self) -> NDArray[np.float64]:
        """As `p_value`."""
        return _each(_tail, self.shared, self.open, self.a, self.b)


def _each(function: Callable[..., float], *numbers: Labels) -> NDArray[np.float64]:
    """A function of whole numbers, elementwise. It is called once for each combination of values that occurs."""
    rows, where = np.unique(np.stack(numbers, axis=1), axis=0, return_inverse=True)
    return np.array([function(*row) for row in rows.tolist()], dtype=float)[where.reshape(-1)]


# Masks as bits in 64-bit words, so that the blocks shared by many pairs of masks are counted at once.

Words = NDArray[np.uint64]


def bit_words(masks: Sequence[Mask]) -> Words:
    """The removed blocks of each mask (masks, words): block b is a bit of word b // 64."""
    members = np.zeros((len(masks), max((mask.n_units for mask in masks), default=1)), dtype=bool)
    for row, mask in zip(members, masks, strict=True):
        row[list(mask.dropped)] = True
    return packed(members)


def packed(members: NDArray[np.bool_]) -> Words:
    """Sets of blocks (..., blocks) as words (..., words)."""
    short = -members.shape[-1] % 64
    padded = np.pad(members, [*[(0, 0)] * (members.ndim - 1), (0, short)])
    return np.packbits(padded, axis=-1).view(np.uint64)


def shared_bits(first: Words, second: Words) -> NDArray[np.int64]:
    """How many blocks two masks have in common. The last axis, which holds the words, is summed."""
    return np.asarray(np.bitwise_count(first & second).sum(axis=-1, dtype=np.int64))


def bit_sizes(masks: Words) -> NDArray[np.int64]:
    """How many blocks each mask removes."""
    return shared_bits(masks, masks)


# The overlap of all pairs of masks whose cells differ in one factor only.

OF_DRAWS = ("draw", "data", "source")  # the fields of CellDraws


def pairs(frame: pd.DataFrame, comparison: str) -> pd.DataFrame:
    """Overlap, corrected overlap and p of pairs of cells that differ only in the columns COMPARISONS[comparison].

    `lowest` is the lowest corrected overlap that masks of these sizes can have. All pairs are compared, except in
    very large groups (see `positions`). `draw_a`, `data_a` and `source_a` are those of the first cell (see
    `CellDraws`), `draw_b`, `data_b` and `source_b` those of the second.
    """
    name = COMPARISONS[comparison][0]
    i, j = compared(frame, comparison)
    overlaps, drawn = MaskSet.of(frame).pairs(i, j), CellDraws.of(frame)
    columns = {column: frame[column].to_numpy() for column in ("model", "k", "objective", "algo")}
    shown = {c: v[i] if c != name else np.full(len(i), "", dtype=object) for c, v in columns.items()}
    shown |= {"a": frame[name].to_numpy()[i], "b": frame[name].to_numpy()[j]}
    for end, rows in (("a", i), ("b", j)):
        shown |= {f"{name}_{end}": getattr(drawn, name)[rows] for name in OF_DRAWS}
    shown |= {name: getattr(overlaps, name) for name in ("jaccard", "corrected", "lowest", "p")}
    return pd.DataFrame(shown)


def compared(frame: pd.DataFrame, comparison: str) -> tuple[Labels, Labels]:
    """The rows (pairs,) and (pairs,) of the pairs of a comparison."""
    return within(_alike(frame, comparison), labels(frame, [COMPARISONS[comparison][0]]))


def _alike(frame: pd.DataFrame, comparison: str) -> Labels:
    """The group (cells,) of each cell. Cells of a group are equal except in the columns of the comparison.

    Cells with different protected blocks are apart, because two masks need the same open blocks in the null model.
    """
    fixed = [column for column in CELL if column not in COMPARISONS[comparison]]
    return labels(frame, [*fixed, "protect_first", "protect_last"])


def mean(pairs: pd.DataFrame) -> DrawMean:
    """The mean corrected overlap of pairs, with its interval over calibration draws.

    The interval is cut to what overlaps of such masks can be: from the mean of `lowest` to 1.
    """
    ends = [CellDraws(*(pairs[f"{name}_{end}"].to_numpy() for name in OF_DRAWS)) for end in "ab"]
    mean = over_pairs(pairs["corrected"], *ends)
    low = float(np.maximum(pairs["lowest"].mean(), mean.low))
    return replace(mean, low=low, high=float(np.minimum(1.0, mean.high)))


def on_common_samples(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells whose samples, for the same model and size, several objectives have read."""
    samples = labels(frame, [*STRATUM, *DRAW, "protect_first", "protect_last"])
    return frame[frame["objective"].groupby(samples).transform("nunique").to_numpy() > 1]


def apart(frame: pd.DataFrame) -> str:
    """Which objectives have no samples in common with another one, as a clause; empty if there are none.

    They are compared with no other. For example, a margin needs items, and a perplexity needs text.
    """
    every = set(frame["objective"])
    names = sorted(every - set(on_common_samples(frame)["objective"]))
    if not names or len(every) == 1:
        return ""
    have = "has" if len(names) == 1 else "have"
    return f"without {' and '.join(names)}, which {have} no samples in common with another objective"


def note(frame: pd.DataFrame) -> str:
    """What is left out of the pairs of a study; empty if every pair is compared."""
    of_pairs = [_alike(frame, comparison) for comparison in COMPARISONS]
    of_pairs.append(labels(frame, ["model", "k", "objective", "algo"]))  # the diagonal of figure 4
    sampled = any(np.bincount(group).max(initial=0) > FULL for group in of_pairs)
    parts = [SAMPLED] if sampled else []
    parts += [f"pairs of objectives are on the same samples, {left}"] if (left := apart(frame)) else []
    return "; ".join(parts)


# Are masks more alike if they differ in one factor than if they differ in another? With an interval over draws.


@dataclass(frozen=True)
class OverlapDifference:
    """Two mean corrected overlaps, and the 95 percent interval of first minus second over calibration draws."""

    first: float
    second: float
    low: float = NAN
    high: float = NAN
    draws: int = 0


def difference(frame: pd.DataFrame, first: str, second: str) -> OverlapDifference | None:
    """Compare the overlap of cells that differ only in `first` with that of cells that differ only in `second`.

    Both are keys of COMPARISONS. None if there are no pairs of one kind. If one is "objectives", both means are over
    the cells whose samples several objectives have read. Pairs share masks, and masks share draws. So each draw is
    left out in turn, with all pairs of its masks (jackknife). Draws that contain each other give no interval.
    """
    frame = on_common_samples(frame) if "objectives" in (first, second) else frame
    draw, every = labels(frame, DRAW), MaskSet.of(frame)
    sides = []
    for comparison in (first, second):
        i, j = compared(frame, comparison)
        overlaps = every.pairs(i, j).corrected
        known = ~np.isnan(overlaps)
        if not known.any():
            return None
        sides.append((overlaps[known], draw[i][known], draw[j][known]))
    one, two = (float(overlaps.mean()) for overlaps, _, _ in sides)
    left = []
    for number in np.unique(draw):
        kept = [overlaps[(a != number) & (b != number)] for overlaps, a, b in sides]
        if all(len(overlaps) for overlaps in kept):
            left.append(float(kept[0].mean()) - float(kept[1].mean()))
    n, differences = len(left), np.array(left)
    if n < 3 or several_sizes(frame):
        return OverlapDifference(one, two)
    error = np.sqrt((n - 1) / n * ((differences - differences.mean()) ** 2).sum())
    half = float(stats.t.ppf(0.975, n - 1) * error)
    return OverlapDifference(one, two, one - two - half, one - two + half, n)


# Groups of masks: their mean overlap, compared with that of groups of random masks.

CHUNK = 4_000_000  # numbers in the largest array


def groups_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Groups of masks that differ only in the algorithm, or only in the draw, compared with groups of random masks.

    One row per group, and per seed if searches of several seeds read the same samples, because these make their masks
    alike. `p` is the probability that random masks overlap at least as much, and `q` is p adjusted for the false
    discovery rate over all groups.
    """
    rows = []
    for comparison in ("algorithms", "draws"):
        varied = COMPARISONS[comparison]
        fixed = [c for c in CELL if c not in varied]
        for _, whole in groups(frame, [*fixed, "protect_first", "protect_last"]):
            crossed = whole[varied].duplicated().any()
            for cells in [part for _, part in groups(whole, "seed")] if crossed else [whole]:
                if len(cells) > 1:
                    group, free = masks(cells), int(n_open(cells).iloc[0])
                    where = [cells[c].iloc[0] if c in fixed else "" for c in CELL]
                    tested = [mean_corrected(group, free), group_p(group, free)]
                    rows.append([comparison, *where, len(cells), *tested])
    table = pd.DataFrame(rows, columns=["differ", *CELL, "masks", "corrected", "p"])
    return table.assign(q=controlled(list(table["p"])))


def mean_corrected(group: Sequence[Mask], open_blocks: int) -> float:
    """Mean chance-corrected overlap over the compared pairs of a group (see `positions`)."""
    words = bit_words(group)
    members = MaskSet(words, bit_sizes(words), np.full(len(group), open_blocks))
    return float(np.mean(members.pairs(*positions(len(group))).corrected))


def group_p(group: Sequence[Mask], open_blocks: int, draws: int = 2000, seed: int = 0) -> float:
    """Monte Carlo probability that a group of random sets has at least the mean Jaccard overlap of `group`.

    A random group has as many sets, and its sets are as large. Pairs share masks, so the p-values of pairs are not
    independent and cannot be combined.
    """
    sizes = tuple(len(mask.dropped) for mask in group)
    observed = _mean_jaccard(bit_words(group)[None], sizes)[0]
    return float((1 + np.sum(_null(sizes, open_blocks, draws, seed) >= observed - 1e-12)) / (draws + 1))


@lru_cache(maxsize=1024)
def _null(sizes: tuple[int, ...], open_blocks: int, draws: int, seed: int) -> NDArray[np.float64]:
    """Mean Jaccard overlap (draws,) of random groups of sets of these sizes. Groups of equal sizes share it."""
    m, rng = len(sizes), np.random.default_rng(seed)
    at_once = max(1, CHUNK // (m * max(open_blocks, len(positions(m)[0]) // m + 1)))
    means = []
    for start in range(0, draws, at_once):
        # The draws do not depend on the size of a chunk: the generator is read in the same order.
        order = rng.random((min(at_once, draws - start), m, open_blocks)).argsort(-1)
        chosen = order < np.array(sizes)[:, None]  # uniform subsets
        means.append(_mean_jaccard(packed(chosen), sizes))
    return np.concatenate(means)


def _mean_jaccard(words: Words, sizes: tuple[int, ...]) -> NDArray[np.float64]:
    """Mean Jaccard overlap (draws,) over the compared pairs of sets of these sizes (draws, m, words)."""
    first, second = positions(words.shape[1])
    shared = shared_bits(words[:, first], words[:, second])
    both = np.array(sizes)[first] + np.array(sizes)[second]
    return np.asarray((shared / np.maximum(both - shared, 1)).mean(axis=1))


# Which pairs of a group are compared: all of them, or in a large group a sample that grows with the group only.
#
# A group of m members has m (m - 1) / 2 pairs. If m is above FULL, the members are put in a circle in random order,
# and each is compared with its nearest neighbours on both sides, PARTNERS in all. So every member is in equally
# many pairs.

PARTNERS = 128  # even: half of them on each side
FULL = PARTNERS + 1  # the largest group of which all pairs are compared
SAMPLED = f"in groups of more than {FULL} masks, each is compared with {PARTNERS} others drawn at random"


@cache
def positions(m: int) -> tuple[Labels, Labels]:
    """The compared pairs of positions 0 to m - 1: two arrays (pairs,), the smaller position first, in order."""
    if m <= FULL:
        first, second = np.triu_indices(m, 1)
        return first.astype(np.int64), second.astype(np.int64)
    circle = np.random.default_rng(0).permutation(m)
    at, step = np.arange(m)[:, None], np.arange(1, PARTNERS // 2 + 1)
    ends = np.stack([np.broadcast_to(circle[at], (m, len(step))), circle[(at + step) % m]]).reshape(2, -1)
    ends = np.sort(ends, axis=0)
    first, second = ends[:, np.lexsort(ends[::-1])]
    return first, second


def members(group: Labels) -> Iterator[Labels]:
    """The rows of each group, in the order of the labels."""
    order = np.argsort(group, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def within(group: Labels, level: NDArray[Any]) -> tuple[Labels, Labels]:
    """The rows (pairs,) and (pairs,) of all compared pairs of a group, except pairs of equal `level`."""
    pairs = [(rows[i], rows[j]) for rows in members(group) for i, j in [positions(len(rows))]]
    first, second = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    other = level[first] != level[second]
    return first[other], second[other]
