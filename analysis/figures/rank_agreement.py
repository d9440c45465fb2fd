"""The table that accompanies figure 2, with several statistics of rank agreement.

For each objective, model and k, the table has three correlations of perplexity and accuracy over searches: Spearman's
rho, Kendall's tau and weighted tau. A search is ranked by its mean over draws, geometric for perplexities; rank 1 is
best. Each correlation is computed twice: over all searches, and with searches that found the same masks counted as
one. Kendall's W measures whether different draws rank the searches alike.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd

from ..data.load import done
from ..data.metrics import Metric
from ..stats.agreement import STATISTICS, agree, concordance, controlled
from ..stats.frames import groups
from ..stats.grid import SETTING, STRATUM, labels
from ..stats.search_means import compared, means

OUTCOMES = ("loss", "perplexity", "accuracy")


def table(frame: pd.DataFrame, perplexity: Metric, accuracy: Metric) -> pd.DataFrame:
    """One row per statistic and panel. q controls the false discovery rate over panels."""
    cells = done(frame)
    cells = cells.assign(perplexity=np.log(perplexity.of(cells)), accuracy=-accuracy.of(cells))
    rows = []
    for where, panel in groups(cells, ["objective", *STRATUM]):
        panel_keys = dict(zip(("objective", *STRATUM), where, strict=True))
        rows += [panel_keys | row for row in _correlations(panel)]
        rows += [panel_keys | row for row in _concordances(panel)]
    agreements = pd.DataFrame(rows)
    for _, same in groups(agreements, ["statistic", "of", "masks"]):
        agreements.loc[same.index, "q"] = controlled(list(same["p"]))
    return agreements


def _correlations(panel: pd.DataFrame) -> list[dict[str, object]]:
    rows = []
    every = means(panel, ["perplexity", "accuracy"])
    for masks, searches in (("all", every), ("distinct", every.drop_duplicates("masks"))):
        # Weighted tau ranks high values first. Here low values are best, so all values change sign.
        a, b = (-searches[outcome].round(9) for outcome in ("perplexity", "accuracy"))
        for name in STATISTICS:
            agreement = asdict(agree(a, b, name))
            value = agreement.pop("statistic")
            rows.append(
                {"statistic": name, "of": "perplexity, accuracy", "masks": masks, "value": value} | agreement
            )
    return rows


def _concordances(panel: pd.DataFrame) -> list[dict[str, object]]:
    """Kendall's W for each outcome. The draws are the raters, and the searches are the items."""
    cells, _ = compared(panel)
    rows = []
    for outcome in OUTCOMES:
        rated = cells.assign(setting=labels(cells, SETTING), value=cells[outcome].round(9))
        ratings = rated.pivot_table(index="setting", columns="algo", values="value").to_numpy()
        agreement = concordance(ratings if ratings.size else np.empty((0, 0)))
        rows.append(
            {"statistic": "kendall_w", "of": outcome, "masks": "all", "value": agreement.w, "p": agreement.p}
            | {"n": agreement.items, "raters": agreement.raters, "exact": False, "note": agreement.note}
        )
    return rows
