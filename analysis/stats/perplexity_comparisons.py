"""Held-out perplexity of objectives, of searches, and of repaired and healed masks, relative to others of a study.

What has fewer than two draws in common with its reference is left out, because nothing is known of its noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from . import common_searches
from .frames import groups
from .grid import STRATUM
from .healings import PRUNED
from .relative_perplexity import NAN, RelativePerplexity, logs, relative

FEWEST = 2
OBJECTIVE = "divergence"  # what objectives are compared with, if a study has it
SEARCH = "one_shot"
FIELDS = list(RelativePerplexity.__dataclass_fields__)
Row = list[Any]


@dataclass(frozen=True)
class Comparisons:
    """Frames whose rows have a model, k, what is compared there, and the fields of RelativePerplexity.

    `objectives` are relative to `reference`, `searches` to one-shot for the same objective, and `states` to the
    pruned masks of the same objective and search. `extremes` are the worst objective relative to the best, of pruned
    masks; they are chosen by the same perplexities, so the ratio is rather too high.
    """

    objectives: pd.DataFrame
    extremes: pd.DataFrame
    searches: pd.DataFrame
    states: pd.DataFrame


def measure(cells: pd.DataFrame) -> Comparisons:
    """All comparisons of cells with the columns `state` and `ppl`. Cells without a perplexity are left out."""
    known = cells.dropna(subset="ppl") if "ppl" in cells else cells.head(0)
    return Comparisons(
        _objectives(known),
        _extremes(known),
        _pairs(known, ["state", "objective"], "algo", SEARCH),
        _pairs(known, ["objective", "algo"], "state", PRUNED.label),
    )


def _objectives(cells: pd.DataFrame) -> pd.DataFrame:
    """The mean perplexity of each objective, and its ratio to that of the reference of its model and k.

    The reference is divergence, because it measures what pruning changes in the model. If it was not run, it is the
    objective with the lowest mean perplexity when pruned. It has the ratio 1 and no interval. Objectives are compared
    over the searches that all of them have (`common_searches`), and not at all if there is none.
    """
    rows: list[Row] = []
    for stratum, part in groups(cells, STRATUM):
        reference = ""
        for state, every in groups(part, "state", sort=False):
            fair, note = common_searches.compared(every)
            if note != common_searches.DIFFERENT:
                reference = reference or _reference(fair)
                rows += [[*stratum, state, *row] for row in _against(fair, reference)]
    return pd.DataFrame(rows, columns=[*STRATUM, "state", "objective", "reference", "ppl", *FIELDS])


def _extremes(cells: pd.DataFrame) -> pd.DataFrame:
    """The worst objective relative to the best one, over the searches that all objectives have."""
    rows: list[Row] = []
    for stratum, part in groups(cells[cells["state"] == PRUNED.label], STRATUM):
        fair, note = common_searches.compared(part)
        names = list(_means(fair).sort_values().index)
        if note != common_searches.DIFFERENT and len(names) > 1:
            best, worst = (fair[fair["objective"] == names[end]] for end in (0, -1))
            rows.append([*stratum, names[0], names[-1], *vars(relative(worst, best)).values()])
    return pd.DataFrame(rows, columns=[*STRATUM, "best", "worst", *FIELDS])


def _reference(cells: pd.DataFrame) -> str:
    means = _means(cells)
    return OBJECTIVE if OBJECTIVE in means else str(means.idxmin())


def _means(cells: pd.DataFrame) -> pd.Series[float]:
    """The mean logarithm of the perplexity of each objective."""
    return pd.Series(logs(cells)).groupby(cells["objective"].to_numpy()).mean()


def _against(cells: pd.DataFrame, reference: str) -> list[Row]:
    """The row of each objective; none if no other objective can be compared with the reference."""
    base, rows = cells[cells["objective"] == reference], list[Row]()
    for objective, part in groups(cells, "objective"):
        found = relative(part, base)
        if objective == reference:
            found = RelativePerplexity(1.0, NAN, NAN, found.draws, found.paired)
        if found.draws >= FEWEST:
            rows.append([objective, reference, float(np.exp(logs(part).mean())), *vars(found).values()])
    return rows if len(rows) > 1 else []


def _pairs(cells: pd.DataFrame, within: list[str], column: str, reference: str) -> pd.DataFrame:
    """The ratio of each value of a column to its reference."""
    rows: list[Row] = []
    for where, part in groups(cells, [*STRATUM, *within], sort=False):
        base = part[part[column] == reference]
        for name, other in groups(part, column, sort=False) if len(base) else ():
            if name != reference and (found := relative(other, base)).draws >= FEWEST:
                rows.append([*where, name, *vars(found).values()])
    return pd.DataFrame(rows, columns=[*STRATUM, *within, column, *FIELDS])
