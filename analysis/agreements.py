"""Rank agreement in all its forms, as one table beside figure 2.

For each objective, model and k: perplexity with accuracy over searches (means over draws, rank 1 best), with and
without searches that found the same masks, by Spearman, Kendall and weighted tau; and Kendall's W, whether
draws rank the searches alike.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd

from analysis.frames import groups
from analysis.load import done
from analysis.metrics import Metric
from analysis.searches import compared, means
from analysis.stats.agreement import STATISTICS, agree, concordance, controlled
from analysis.stats.grid import SETTING, STRATUM, labels

OUTCOMES = ("loss", "perplexity", "accuracy")


def table(frame: pd.DataFrame, perplexity: Metric, accuracy: Metric) -> pd.DataFrame:
    """One row a statistic of a panel; q controls the false discovery rate over the rows of one statistic."""
    cells = done(frame)
    cells = cells.assign(perplexity=perplexity.of(cells), accuracy=-accuracy.of(cells))
    rows = []
    for where, panel in groups(cells, ["objective", *STRATUM]):
        place = dict(zip(("objective", *STRATUM), where, strict=True))
        rows += [place | row for row in _correlations(panel)]
        rows += [place | row for row in _concordances(panel)]
    found = pd.DataFrame(rows)
    for _, same in groups(found, ["statistic", "of", "masks"]):
        found.loc[same.index, "q"] = controlled(list(same["p"]))
    return found


def _correlations(panel: pd.DataFrame) -> list[dict[str, object]]:
    rows = []
    every = means(panel, ["perplexity", "accuracy"])
    for masks, searches in (("all", every), ("distinct", every.drop_duplicates("masks"))):
        # Weighted tau ranks high values first, and here low is best: hence the signs.
        a, b = (-searches[outcome].round(9) for outcome in ("perplexity", "accuracy"))
        for name in STATISTICS:
            found = asdict(agree(a, b, name))
            value = found.pop("statistic")
            rows.append(
                {"statistic": name, "of": "perplexity, accuracy", "masks": masks, "value": value} | found
            )
    return rows


def _concordances(panel: pd.DataFrame) -> list[dict[str, object]]:
    """Kendall's W with draws as raters and searches as what is rated, for each outcome."""
    cells, _ = compared(panel)
    rows = []
    for outcome in OUTCOMES:
        rated = cells.assign(setting=labels(cells, SETTING), value=cells[outcome].round(9))
        ratings = rated.pivot_table(index="setting", columns="algo", values="value").to_numpy()
        found = concordance(ratings if ratings.size else np.empty((0, 0)))
        rows.append(
            {"statistic": "kendall_w", "of": outcome, "masks": "all", "value": found.w, "p": found.p}
            | {"n": found.items, "raters": found.raters, "exact": False, "note": found.note}
        )
    return rows
