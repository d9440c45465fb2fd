"""The numbers of figure 4: overlaps of the masks of two searches, and of masks whose cells differ in one factor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..data.load import done
from ..stats import overlap, overlap_pairs, pairing
from ..stats.draw_means import CellDraws
from ..stats.frames import groups
from ..stats.grid import COMPARISONS, STRATUM, Labels, labels
from .style import ordered

SAME, APART, BETWEEN = "same samples", "no common samples", "other draws"


def heat(frame: pd.DataFrame) -> pd.DataFrame:
    """For each model and k, the mean corrected overlap of every pair of searches (objective, algorithm).

    Masks of two searches are compared within the same samples. If two objectives have no common samples, because one
    reads texts and the other items, all their draws are compared. A search is compared with itself between different
    draws of the same data. `paired` says which, and `pairs` is the number of pairs of masks in the mean.
    """
    rows = []
    for (model, k), cells in groups(done(frame), STRATUM):
        drawn, protected = CellDraws.of(cells), labels(cells, ["protect_first", "protect_last"])
        place = pd.Series(np.arange(len(cells)), cells.index)
        searches = {
            name: _Search.of(part, drawn, protected, place[part.index].to_numpy())
            for name, part in groups(cells, ["objective", "algo"])
        }
        keys = [(o, a) for o in sorted(cells["objective"].unique()) for a in ordered(cells["algo"])]
        for first, second in combinations_with_replacement(keys, 2):
            overlaps, how = _between(searches.get(first), searches.get(second))
            mean = float(np.mean(overlaps)) if len(overlaps) else float("nan")
            rows.append([model, int(k), *first, *second, mean, len(overlaps), how])
    columns = ["model", "k", "objective_a", "algo_a", "objective_b", "algo_b", "corrected", "pairs", "paired"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class _Search:
    """The masks of one search, the draw and the data of each, and a number for its protected blocks."""

    masks: overlap.MaskSet
    drawn: CellDraws
    protected: Labels

    @classmethod
    def of(cls, cells: pd.DataFrame, drawn: CellDraws, protected: Labels, rows: Labels) -> _Search:
        return cls(overlap.MaskSet.of(cells), drawn.take(rows), protected[rows])


def _between(first: _Search | None, second: _Search | None) -> tuple[NDArray[np.float64], str]:
    """Corrected overlaps of the compared masks of two searches, and how they are paired.

    Masks with different protected blocks are not compared, because both need the same open blocks in the null model.
    """
    if first is None or second is None:
        return np.zeros(0), ""
    if first is second:
        i, j, how = *pairing.within(first.drawn.data, first.drawn.draw), BETWEEN
    else:
        i, j = np.nonzero(first.drawn.draw[:, None] == second.drawn.draw)
        how = SAME
        if not len(i):
            i, j, how = *_all(len(first.drawn.draw), len(second.drawn.draw)), APART
    alike = first.protected[i] == second.protected[j]
    i, j = i[alike], j[alike]
    return first.masks.pairs(i, j, second.masks).corrected, how


def _all(n: int, m: int) -> tuple[Labels, Labels]:
    """The pairs of n rows with m rows: all, or in a large study PARTNERS for each row, evenly spread."""
    step = np.arange(min(m, pairing.PARTNERS))
    first = np.repeat(np.arange(n), len(step))
    return first, (first * len(step) + np.tile(step, n)) % m


def comparisons(frame: pd.DataFrame) -> pd.DataFrame:
    """All pairs of masks whose cells differ in one factor; the column `comparison` names the factor."""
    parts = [overlap_pairs.pairs(done(frame), name).assign(comparison=name) for name in COMPARISONS]
    nonempty = [part for part in parts if len(part)]
    return pd.concat(nonempty, ignore_index=True) if nonempty else parts[0]


def means(pairs: pd.DataFrame, by: Sequence[str] = ("comparison", "model")) -> pd.DataFrame:
    """For each combination of values in `by`: the mean overlaps, and the interval of `corrected` over draws."""
    rows = []
    for where, part in groups(pairs, by):
        mean = overlap_pairs.mean(part)
        numbers = [part["jaccard"].mean(), mean.mean, mean.low, mean.high, mean.draws]
        rows.append([*where, len(part), *numbers])
    return pd.DataFrame(rows, columns=[*by, "pairs", "jaccard", "corrected", "low", "high", "draws"])
