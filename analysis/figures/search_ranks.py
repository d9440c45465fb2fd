"""The numbers of figure 2: ranks of the searches by perplexity and by accuracy, and how far they agree."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..data.load import done
from ..data.metrics import Metric
from ..stats.agreement import agree, controlled
from ..stats.frames import groups
from ..stats.grid import STRATUM
from ..stats.search_means import means


def ranks(frame: pd.DataFrame, perplexity: Metric, accuracy: Metric) -> pd.DataFrame:
    """One row per algorithm and panel: means, ranks, and the panel's Spearman correlation (p, q, interval, note).

    The mean of a perplexity is geometric: in an arithmetic mean, one broken mask would outweigh all other draws.
    `searches` counts the algorithms of the panel, and `distinct_masks` the masks that they found in all draws. If
    several algorithms found the same masks in all draws, `distinct` and `distinct_spearman` count these as one.
    """
    cells = done(frame)
    cells = cells.assign(perplexity=perplexity.of(cells), accuracy=accuracy.of(cells))
    parts, correlations, once = [], [], []
    for (objective, model, k), panel in groups(cells, ["objective", *STRATUM]):
        ranked = _ranked(panel)
        correlations.append(agree(ranked["perplexity_rank"], ranked["accuracy_rank"]))
        distinct = ranked.drop_duplicates("masks")
        once.append(agree(distinct["perplexity_rank"], distinct["accuracy_rank"]).statistic)
        sizes = {"searches": len(ranked), "distinct": len(distinct)}
        sizes["distinct_masks"] = len({dropped for found in ranked["masks"] for *_, dropped in found})
        where = {"objective": objective, "model": model, "k": int(k)}
        parts.append(ranked.drop(columns="masks").assign(**where, **sizes))
    adjusted = controlled([a.p for a in correlations])
    for part, a, q, rho in zip(parts, correlations, adjusted, once, strict=True):
        part[["spearman", "p", "q", "low", "high", "distinct_spearman"]] = (
            a.statistic,
            a.p,
            q,
            a.low,
            a.high,
            rho,
        )
        part["note"] = a.note
    table = pd.concat(parts, ignore_index=True)
    first = ["objective", *STRATUM, "algo"]
    return table[[*first, *(c for c in table if c not in first)]]


def _ranked(panel: pd.DataFrame) -> pd.DataFrame:
    """Means and ranks of the searches of a panel."""
    searches = means(panel.assign(perplexity=np.log(panel["perplexity"])), ["perplexity", "accuracy"])
    # Searches with equal masks must tie. Sums in different orders differ in the last digits, so values are rounded.
    searches["perplexity_rank"] = searches["perplexity"].round(9).rank()
    searches["perplexity"] = np.exp(searches["perplexity"])
    searches["accuracy_rank"] = (-searches["accuracy"]).round(9).rank()
    return searches
