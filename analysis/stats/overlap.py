"""Jaccard overlap of masks, compared with the overlap of random masks.

Null model: each mask is a uniformly random set of its size among the blocks that may be removed. Then the
number of shared blocks is hypergeometric, which gives the expected overlap and an exact p-value.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from pruning.core.mask import Mask

from .agreement import controlled
from .frames import groups
from .grid import CELL, COMPARISONS, labels


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
    return (first.jaccard(second) - chance) / (most - chance) if most - chance > 1e-12 else float("nan")


def p_value(first: Mask, second: Mask, n_open: int) -> float:
    """Exact probability that two random sets of these sizes share at least as many blocks as the two masks."""
    shared = len(set(first.dropped) & set(second.dropped))
    return _tail(shared, n_open, len(first.dropped), len(second.dropped))


@cache
def _tail(shared: int, n_open: int, a: int, b: int) -> float:
    return float(stats.hypergeom.sf(shared - 1, n_open, a, b))


def mean_corrected(masks: Sequence[Mask], n_open: int) -> float:
    """Mean chance-corrected overlap over all pairs of masks."""
    return float(np.mean([corrected(a, b, n_open) for a, b in combinations(masks, 2)]))


def group_p(masks: Sequence[Mask], n_open: int, draws: int = 2000, seed: int = 0) -> float:
    """Monte Carlo probability that a group of random sets has at least the mean Jaccard overlap of `masks`.

    A random group has as many sets as `masks`, and its sets are as large. Pairs share masks, so the p-values of
    pairs are not independent and cannot be combined. Instead, whole groups are drawn at random.
    Raises ValueError if the masks differ in size.
    """
    k, m = len(masks[0].dropped), len(masks)
    if {len(mask.dropped) for mask in masks} != {k}:
        raise ValueError(
            "the masks of a group remove different numbers of blocks; they must remove the same number"
        )
    rng = np.random.default_rng(seed)
    order = rng.random((draws, m, n_open)).argsort(-1) < k  # (draws, m, n_open): uniform k-subsets
    null = _mean_jaccard(order)
    members = np.zeros((1, m, masks[0].n_blocks), dtype=bool)
    for row, mask in enumerate(masks):
        members[0, row, list(mask.dropped)] = True
    return float((1 + np.sum(null >= _mean_jaccard(members)[0] - 1e-12)) / (draws + 1))


def _mean_jaccard(sets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean Jaccard overlap (draws,) over the pairs of boolean sets (draws, m, blocks)."""
    total = 0.0
    pairs = list(combinations(range(sets.shape[1]), 2))
    for a, b in pairs:
        both, either = sets[:, a] & sets[:, b], sets[:, a] | sets[:, b]
        total = total + both.sum(-1) / np.maximum(either.sum(-1), 1)
    return np.asarray(total) / len(pairs)


def masks(frame: pd.DataFrame) -> list[Mask]:
    """The masks of finished cells."""
    return [Mask(int(n), tuple(d)) for n, d in zip(frame["n_blocks"], frame["dropped"], strict=True)]


def n_open(frame: pd.DataFrame) -> pd.Series[int]:
    """The number of blocks that each cell could remove."""
    protected = frame[["protect_first", "protect_last"]].fillna(0).sum(axis=1)
    return (frame["n_blocks"] - protected).astype(int)


def pairs(frame: pd.DataFrame, comparison: str) -> pd.DataFrame:
    """Overlap, corrected overlap and p of all pairs of cells that differ only in the columns COMPARISONS[comparison].

    Pairs with different protected blocks are omitted, because both masks need the same open blocks in the null model.
    """
    varied = COMPARISONS[comparison]
    panel = labels(frame, [*(c for c in CELL if c not in varied), "protect_first", "protect_last"])
    every_mask, free = masks(frame), n_open(frame).to_numpy()
    level = labels(frame, varied[:1])
    rows = []
    for group in np.unique(panel):
        for i, j in combinations(np.flatnonzero(panel == group), 2):
            if level[i] != level[j]:
                rows.append(_pair(frame, every_mask, int(free[i]), int(i), int(j), varied[0]))
    columns = ["model", "k", "objective", "algo", "a", "b", "jaccard", "corrected", "p"]
    return pd.DataFrame(rows, columns=columns)


def _pair(frame: pd.DataFrame, every_mask: list[Mask], free: int, i: int, j: int, name: str) -> list[object]:
    a, b = frame.iloc[i], frame.iloc[j]
    first, second = every_mask[i], every_mask[j]
    where = [a[c] if a[c] == b[c] else "" for c in ("model", "k", "objective", "algo")]
    measured = [first.jaccard(second), corrected(first, second, free), p_value(first, second, free)]
    return [*where, a[name], b[name], *measured]


def groups_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Groups of masks that differ only in the algorithm, or only in the draw, compared with groups of random masks.

    One row per group: its mean corrected overlap; p, the probability that random masks overlap at least as much;
    and q, which is p adjusted for the false discovery rate over all groups.
    """
    rows = []
    for comparison in ("algorithms", "draws"):
        fixed = [c for c in CELL if c not in COMPARISONS[comparison]]
        for _, cells in groups(frame, [*fixed, "protect_first", "protect_last"]):
            if len(cells) > 1:
                group, free = masks(cells), int(n_open(cells).iloc[0])
                where = [cells[c].iloc[0] if c in fixed else "" for c in CELL]
                rows.append(
                    [comparison, *where, len(cells), mean_corrected(group, free), group_p(group, free)]
                )
    table = pd.DataFrame(rows, columns=["differ", *CELL, "masks", "corrected", "p"])
    return table.assign(q=controlled(list(table["p"])))
