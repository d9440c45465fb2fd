"""Measure what pruning for one objective costs in other outcomes, and the regret and the cost of each search."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pruning.core import complete_masks
from pruning.core.complete_masks import is_complete
from pruning.core.result import BudgetRecord

from .frames import groups
from .grid import SETTING, STRATUM
from .removal import budgets, column, free, n_open

# Cells with equal values in these columns minimise the same loss.
PROBLEM = [*STRATUM, *SETTING, "protect_first", "protect_last"]
Trace = Sequence[Mapping[str, Any]]


def matrix(
    frame: pd.DataFrame, outcomes: Mapping[str, pd.Series[Any]], geometric: Collection[str] = ()
) -> pd.DataFrame:
    """One row for each model, k, objective and outcome: mean over cells, standard deviation, and cost.

    `outcomes` maps a label to one value per cell; lower is better. `cost` is the mean minus the lowest mean
    that any objective has on this outcome. An objective has cost 0 on its own outcome if no other is
    better. Outcomes in `geometric` (perplexities) get the geometric mean, so that one broken mask does not
    dominate it. Their `sd` is the factor exp(sd of the logarithm), and the column `geometric` is true.
    """
    rows = []
    for (model, k), cells in groups(frame, STRATUM):
        for label, values in outcomes.items():
            outcome, logs = values.loc[cells.index].astype(float), label in geometric
            outcome = outcome.map(np.log) if logs else outcome
            by_objective = outcome.groupby(cells["objective"]).agg(["mean", "std", "count"])
            if logs:
                by_objective[["mean", "std"]] = np.exp(by_objective[["mean", "std"]])
            by_objective["cost"] = by_objective["mean"] - by_objective["mean"].min()
            for objective, row in by_objective.iterrows():
                spread = [*row[["mean", "std"]], logs, int(row["count"]), row["cost"]]
                rows.append([model, k, objective, label, *spread])
    columns = ["model", "k", "objective", "outcome", "mean", "sd", "geometric", "cells", "cost"]
    return pd.DataFrame(rows, columns=columns)


def best_known(frame: pd.DataFrame, traces: Mapping[str, Trace]) -> pd.DataFrame:
    """Add `best` to each cell: the lowest loss of all complete masks that were scored in cells of the same problem.

    A mask is complete if it removes k units, or what the cell's budget asks for (`pruning.core.complete_masks`).
    `exact` is true if some cell of the problem scored every mask; an exhaustive search with a budget can score fewer.
    `regret` is the loss minus `best`. `relative_regret` is regret / (`best` - dense loss). It is NaN if this divisor
    is not positive (pruning can improve a margin). `regret_se` is the regret divided by the standard error of the
    cell's loss over the calibration samples.
    """
    scored = frame.copy()
    complete = [
        [score for score in traces.get(cell, ()) if is_complete(score["dropped"], int(k), budget)]
        for cell, k, budget in zip(frame["cell"], frame["k"], budgets(frame), strict=True)
    ]
    losses = [min((float(s["loss"]) for s in scores), default=float("nan")) for scores in complete]
    scored["least"] = scored.assign(least=losses)[["least", "loss"]].min(axis=1)
    sizes = zip(complete, _spaces(frame), strict=True)
    scored["whole"] = [len({tuple(s["dropped"]) for s in scores}) == size for scores, size in sizes]
    problems = scored.groupby(PROBLEM, dropna=False)
    scored["best"] = problems["least"].transform("min")
    scored["exact"] = problems["whole"].transform("any").astype(bool)
    scored["regret"] = scored["loss"] - scored["best"]
    damage = scored["best"] - scored["dense_loss"]
    scored["relative_regret"] = np.where(damage > 0, scored["regret"] / damage.where(damage > 0), np.nan)
    error = scored["standard_error"].astype(float)
    scored["regret_se"] = np.where(error > 0, scored["regret"] / error.where(error > 0), np.nan)
    return scored.drop(columns=["least", "whole"])


def _spaces(frame: pd.DataFrame) -> Iterator[int]:
    """The number of complete masks of each cell's problem."""
    where = [frame[name].fillna(0).astype(int) for name in ("n_blocks", "protect_first", "protect_last")]
    cells = zip(budgets(frame), column(frame, "unit", "block"), *where, strict=True)
    known: dict[
        tuple[Any, ...], int
    ] = {}  # counting masks takes a few milliseconds, and most cells share budgets
    for (budget, unit, *shape), k, n in zip(cells, frame["k"], n_open(frame), strict=True):
        if budget is None:
            yield math.comb(int(n), int(k))
            continue
        key = (tuple(budget["costs"]), budget["least"], budget["most"], unit, *shape)
        if key not in known:
            n_blocks, first, last = shape
            known[key] = complete_masks.count(budget, free(n_blocks, unit, first, last))
        yield known[key]


def seconds(traces: Iterable[Trace]) -> dict[tuple[int, ...], float]:
    """Seconds to score each mask of a problem. A reused score has 0 seconds, so take the maximum over traces."""
    paid: dict[tuple[int, ...], float] = {}
    for trace in traces:
        for score in trace:
            mask = tuple(score["dropped"])
            paid[mask] = max(paid.get(mask, 0.0), float(score["seconds"]))
    return paid


def anytime(
    trace: Trace, k: int, paid: Mapping[tuple[int, ...], float], budget: BudgetRecord | None = None
) -> pd.DataFrame:
    """After each scored complete mask: the number of scores, the seconds, and the lowest loss of such a mask so far.

    The seconds of every mask's evaluation are counted, even if another cell computed the score. The evaluation of
    the dense model is not counted.
    """
    rows, spent, number, best = [], 0.0, 0, float("inf")
    for score in trace:
        if not score["dropped"]:
            continue
        number += 1
        spent += paid.get(tuple(score["dropped"]), float(score["seconds"]))
        if is_complete(score["dropped"], k, budget):
            best = min(best, float(score["loss"]))
            rows.append([number, spent, best])
    return pd.DataFrame(rows, columns=["scores", "seconds", "best"])


def pareto(cost: Sequence[float], quality: Sequence[float]) -> list[bool]:
    """Whether each point is on the Pareto front: no other point is at least as good in both values and better in one.

    Lower is better in both. A point with a NaN is never on the front. Of equal points, all or none are on it.
    """
    points = np.column_stack([np.asarray(cost, float), np.asarray(quality, float)])
    front = []
    for point in points:
        no_worse, better = (points <= point).all(axis=1), (points < point).any(axis=1)
        front.append(not np.isnan(point).any() and not bool((no_worse & better).any()))
    return front
