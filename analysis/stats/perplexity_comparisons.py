"""Held-out perplexity of objectives, of searches, and of repaired and healed masks, relative to others in a study.

Perplexities are averaged geometrically, so the logarithm of a ratio is a difference of means. Masks from the same
samples are compared draw by draw, because samples that are hard for one search can be hard for the other. Masks
without common samples are compared as independent ones (Welch 1947). A comparison over fewer than two draws is left
out, because its noise is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from . import grid
from .grid import DRAW, STRATUM, groups, several_sizes
from .healed import PRUNED
from .means import CellDraws, DrawMean, over_draws

NAN = float("nan")


@dataclass(frozen=True)
class RelativePerplexity:
    """A ratio of two mean perplexities, with its 95 percent interval over draws (NaN if there is none).

    If masks are `paired`, `draws` counts the common draws; otherwise it is the number on the side with fewer draws.
    """

    value: float
    low: float
    high: float
    draws: int
    paired: bool


def relative(first: pd.DataFrame, second: pd.DataFrame) -> RelativePerplexity:
    """The perplexity (`ppl`) of the cells `first`, relative to that of the cells `second`.

    The value of a draw is the mean over its cells. If the sides have draws in common, only these are compared, in
    pairs. If a data set has one draw, or if larger draws contain smaller ones, there is no interval.
    """
    sides = [cells[DRAW].assign(side=i, log=_logs(cells)) for i, cells in enumerate((first, second))]
    both = pd.concat(sides, ignore_index=True)
    drawn = vars(CellDraws.of(both))
    by_draw = both.assign(**drawn).pivot_table(index=list(drawn), columns="side", values="log")
    by_draw = by_draw.reindex(columns=[0, 1])
    common = by_draw.dropna()
    if len(common):
        found = _mean(common[0] - common[1])
    else:
        found = _apart(by_draw[0].dropna(), by_draw[1].dropna(), several_sizes(both))
    with np.errstate(over="ignore"):
        value, low, high = (float(np.exp(x)) for x in (found.mean, found.low, found.high))
    return RelativePerplexity(value, low, high, found.draws, len(common) > 0)


def _logs(cells: pd.DataFrame) -> NDArray[np.float64]:
    return np.asarray(np.log(cells["ppl"].to_numpy(float)))


def _mean(by_draw: pd.Series[float]) -> DrawMean:
    """The mean of one value per draw. The index has the fields of CellDraws."""
    fields = (by_draw.index.get_level_values(i).to_numpy() for i in range(by_draw.index.nlevels))
    return over_draws(by_draw.to_numpy(), CellDraws(*fields))


def _apart(first: pd.Series[float], second: pd.Series[float], nested: bool) -> DrawMean:
    """The difference of two independent means, with Welch and Satterthwaite's degrees of freedom."""
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


FEWEST = 2
DIVERGENCE = "divergence"  # the reference for objectives, if a study has it
SEARCH = "one_shot"
FIELDS = list(RelativePerplexity.__dataclass_fields__)


@dataclass(frozen=True)
class Comparisons:
    """Frames whose rows have a model, k, the names of what is compared, and the fields of RelativePerplexity.

    `objectives` are compared with `reference`, `searches` with one-shot for the same objective, and `states` with the
    pruned masks of the same objective and search.
    """

    objectives: pd.DataFrame
    searches: pd.DataFrame
    states: pd.DataFrame


def measure(cells: pd.DataFrame) -> Comparisons:
    """All comparisons of `cells`, which have the columns `state` and `ppl`. Cells without a perplexity are left out.

    Objectives are compared over the searches that all of them have (`grid.compared`). Without a common
    search, they are not compared. The reference is divergence, which measures what pruning changes in the
    model. If divergence was not run, the reference is the objective whose pruned masks have the lowest mean
    perplexity. The reference has the ratio 1 and no interval.
    """
    known = cells.dropna(subset="ppl") if "ppl" in cells else cells.head(0)
    objectives = list[list[Any]]()
    for stratum, part in groups(known, STRATUM):
        reference = ""
        for state, every in groups(part, "state", sort=False):
            fair, note = grid.compared(every)
            if note == grid.DIFFERENT:
                continue
            means = pd.Series(_logs(fair)).groupby(fair["objective"].to_numpy()).mean()
            reference = reference or (DIVERGENCE if DIVERGENCE in means else str(means.idxmin()))
            objectives += [[*stratum, state, *row] for row in _against(fair, reference)]
    columns = [*STRATUM, "state", "objective", "reference", "ppl", *FIELDS]
    return Comparisons(
        pd.DataFrame(objectives, columns=columns),
        _pairs(known, ["state", "objective"], "algo", SEARCH),
        _pairs(known, ["objective", "algo"], "state", PRUNED.label),
    )


def _against(cells: pd.DataFrame, reference: str) -> list[list[Any]]:
    """The row of each objective; empty if no other objective can be compared with the reference."""
    base, rows = cells[cells["objective"] == reference], list[list[Any]]()
    for objective, part in groups(cells, "objective"):
        found = relative(part, base)
        if objective == reference:
            found = RelativePerplexity(1.0, NAN, NAN, found.draws, found.paired)
        if found.draws >= FEWEST:
            mean = float(np.exp(_logs(part).mean()))
            rows.append([objective, reference, mean, *vars(found).values()])
    return rows if len(rows) > 1 else []


def _pairs(cells: pd.DataFrame, within: list[str], column: str, reference: str) -> pd.DataFrame:
    """For each value of `column` except `reference`, the perplexity relative to that of cells with `reference`."""
    rows: list[list[Any]] = []
    for where, part in groups(cells, [*STRATUM, *within], sort=False):
        base = part[part[column] == reference]
        for name, other in groups(part, column, sort=False) if len(base) else ():
            if name != reference and (found := relative(other, base)).draws >= FEWEST:
                rows.append([*where, name, *vars(found).values()])
    return pd.DataFrame(rows, columns=[*STRATUM, *within, column, *FIELDS])
