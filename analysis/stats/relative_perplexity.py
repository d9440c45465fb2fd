"""The held-out perplexity of some masks relative to that of others, with a 95 percent interval over draws.

Perplexities are averaged geometrically, so the logarithm of a ratio is a difference of means. Masks that were found
on the same samples are compared draw by draw, because samples that are hard for one search or objective can be hard
for the other. Masks without common samples are compared as independent ones (Welch 1947). The draws of the cells
decide which of the two it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from .draw_means import CellDraws, DrawMean, over_draws
from .grid import DRAW, several_sizes

NAN = float("nan")


@dataclass(frozen=True)
class RelativePerplexity:
    """A ratio of two mean perplexities, with its interval over draws. The ends are NaN if there is no interval.

    `draws` counts the common draws if masks are `paired`; otherwise it is the smaller number of both sides.
    """

    value: float
    low: float
    high: float
    draws: int
    paired: bool


def logs(cells: pd.DataFrame) -> NDArray[np.float64]:
    """The logarithm of the perplexity (`ppl`) of each cell."""
    return np.asarray(np.log(cells["ppl"].to_numpy(float)))


def relative(first: pd.DataFrame, second: pd.DataFrame) -> RelativePerplexity:
    """The perplexity (`ppl`) of some cells relative to that of others.

    A draw counts by the mean over its cells. If both sides have draws in common, only these are compared, in pairs.
    There is no interval if some data were drawn once, or if draws of several sizes contain each other.
    """
    sides = [cells[DRAW].assign(side=side, log=logs(cells)) for side, cells in enumerate((first, second))]
    both = pd.concat(sides, ignore_index=True)
    drawn = vars(CellDraws.of(both))
    by_draw = both.assign(**drawn).pivot_table(index=list(drawn), columns="side", values="log")
    by_draw = by_draw.reindex(columns=[0, 1])
    common = by_draw.dropna()
    paired = len(common) > 0
    if paired:
        found = _mean(common[0] - common[1])
    else:
        found = _apart(by_draw[0].dropna(), by_draw[1].dropna(), several_sizes(both))
    with np.errstate(over="ignore"):
        value, low, high = (float(np.exp(x)) for x in (found.mean, found.low, found.high))
    return RelativePerplexity(value, low, high, found.draws, paired)


def _mean(by_draw: pd.Series[float]) -> DrawMean:
    """The mean of one value per draw. The index has the fields of CellDraws."""
    fields = (by_draw.index.get_level_values(i).to_numpy() for i in range(by_draw.index.nlevels))
    return over_draws(by_draw.to_numpy(), CellDraws(*fields))


def _apart(first: pd.Series[float], second: pd.Series[float], nested: bool) -> DrawMean:
    """The difference of two independent means, with the degrees of freedom of Welch and Satterthwaite."""
    a, b = _mean(first), _mean(second)
    difference, draws = a.mean - b.mean, min(a.draws, b.draws)
    error = NAN if nested else float(np.hypot(a.error, b.error))
    if error == 0:
        return DrawMean(difference, 0.0, difference, difference, draws)
    parts = [
        mean.error**4 / max(1, len(values) - values.index.get_level_values("data").nunique())
        for mean, values in ((a, first), (b, second))
    ]
    half = float(stats.t.ppf(0.975, error**4 / sum(parts))) * error
    return DrawMean(difference, error, difference - half, difference + half, draws)
