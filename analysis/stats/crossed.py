"""What pruning for one objective costs in other outcomes, and what a search costs in scores and seconds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pruning.core.mask import BudgetRecord, is_complete

from . import grid
from .grid import STRATUM, groups
from .means import CellDraws, over_draws

Trace = Sequence[Mapping[str, Any]]


def matrix(
    frame: pd.DataFrame,
    outcomes: Mapping[str, pd.Series[Any]],
    geometric: Collection[str] = (),
    higher: Collection[str] = (),
) -> pd.DataFrame:
    """One row for each model, k, objective and outcome: mean over cells, its interval, median, range, and cost.

    Objectives are compared over the searches that all of them have (`grid.compared`); `note` says what is
    left out. `outcomes` maps a label to one value per cell. Lower is better, except for labels in `higher`.
    `cost` is the distance of the mean from the best objective's mean. Means of labels in `geometric`
    (perplexities) are geometric, so that no broken mask dominates. The interval is over calibration draws.
    """
    columns = ["mean", "low", "high", "median", "lowest", "highest"]
    names = ["model", "k", "objective", "outcome", *columns, "cells", "cost", "note"]
    parts = [pd.DataFrame(columns=names)]
    for (model, k), stratum in groups(frame, STRATUM):
        cells, note = grid.compared(stratum)
        for label, values in outcomes.items():
            outcome = values.loc[cells.index].astype(float)
            outcome = outcome.map(np.log) if label in geometric else outcome
            by = outcome.groupby(cells["objective"])
            table = by.agg(mean="mean", median="median", lowest="min", highest="max", cells="count")
            drawn = [
                over_draws(outcome[part.index], CellDraws.of(part)) for _, part in groups(cells, "objective")
            ]
            table[["low", "high"]] = [(mean.low, mean.high) for mean in drawn]
            if label in geometric:
                table[columns] = np.exp(table[columns])
            best = table["mean"].max() if label in higher else table["mean"].min()
            table = table.assign(cost=(table["mean"] - best).abs())
            parts.append(table.assign(model=model, k=k, outcome=label, note=note).reset_index()[names])
    return pd.concat(parts[1:] or parts, ignore_index=True)


def complete_scores(
    trace: Trace, k: int, budget: BudgetRecord | None
) -> dict[tuple[int, ...], Mapping[str, Any]]:
    """The last score of each complete mask in a trace: one that removes k units or, with a budget, meets it."""
    masks = {tuple(score["dropped"]): score for score in trace}
    return {mask: score for mask, score in masks.items() if is_complete(mask, k, budget)}


def pareto(cost: ArrayLike, quality: ArrayLike) -> list[bool]:
    """Whether each point is on the Pareto front; lower is better in both values. A point with a NaN is not on it."""
    points = np.column_stack([np.asarray(cost, float), np.asarray(quality, float)])
    front = []
    for point in points:
        no_worse, better = (points <= point).all(axis=1), (points < point).any(axis=1)
        front.append(not np.isnan(point).any() and not bool((no_worse & better).any()))
    return front
