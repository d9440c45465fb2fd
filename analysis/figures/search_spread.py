"""The numbers of figure 3: means of each search with intervals over draws, and how much the searches differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..data.load import done
from ..data.metrics import Metric
from ..paper.published import MODELS, read
from ..stats.draw_means import CellDraws, over_draws
from ..stats.frames import groups
from ..stats.grid import STRATUM
from ..stats.search_means import compared, means

OUTCOMES = ("accuracy", "perplexity")


def spread(frame: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """One row for each outcome, objective, model, k and algorithm.

    `value` is the arithmetic mean, and `variance` its variance over algorithms; in `distinct_variance`, algorithms
    with equal masks count once. `mean`, `low` and `high` are what is drawn, geometric for perplexities. `sd` and
    `distinct_sd` are its standard deviations over algorithms, for perplexities a factor.
    """
    cells = done(frame)
    cells = cells.assign(**{outcome: metrics[outcome].of(cells) for outcome in OUTCOMES})
    parts = []
    for (objective, model, k), panel in groups(cells, ["objective", *STRATUM]):
        where = {"objective": objective, "model": model, "k": int(k)}
        parts += [_of_panel(panel, outcome, where) for outcome in OUTCOMES]
    rows = pd.concat(parts, ignore_index=True)
    first = ["outcome", "objective", *STRATUM, "algo", "cells", "value", "variance", "distinct_variance"]
    return rows[[*first, *(column for column in rows if column not in first)]]


def _of_panel(panel: pd.DataFrame, outcome: str, where: Mapping[str, Any]) -> pd.DataFrame:
    searches = means(panel, [outcome]).rename(columns={outcome: "value"})
    whole, logs = compared(panel, [outcome])[0], outcome == "perplexity"
    values = np.log(whole[outcome]) if logs else whole[outcome]
    # In the order of `means`.
    drawn = [over_draws(values[algo.index], CellDraws.of(algo)) for _, algo in groups(whole, "algo")]
    shown = pd.DataFrame([[d.mean, d.low, d.high] for d in drawn], columns=["mean", "low", "high"])
    once = ~searches["masks"].duplicated()
    sds = {"sd": _sd(shown["mean"]), "distinct_sd": _sd(shown["mean"][once])}
    variances = {
        "variance": _sd(searches["value"]) ** 2,
        "distinct_variance": _sd(searches["value"][once]) ** 2,
    }
    paper = published_variance(outcome, where["objective"], where["model"], where["k"])
    rows = searches.drop(columns="masks").assign(outcome=outcome, **where, **variances)
    rows = rows.assign(distinct=int(once.sum()), published_variance=paper)
    numbers = shown.assign(**sds)
    return pd.concat([rows, numbers.map(np.exp) if logs else numbers], axis=1)


def _sd(values: pd.Series[float]) -> float:
    """The standard deviation (ddof 0); NaN for a single value, as there is nothing to differ."""
    return float(np.std(values)) if len(values) > 1 else float("nan")


def published_variance(outcome: str, objective: str, model: str, k: int) -> float:
    """The variance in figure 3 of the paper; NaN if the paper has none."""
    table = read("figure3_variance")
    same = (table["model"] == MODELS.get(model)) & (table["k"] == k) & (table["objective"] == objective)
    rows = table[same & (table["outcome"] == f"average_{outcome}")]
    return float(rows["published_variance"].iloc[0]) if len(rows) else float("nan")
