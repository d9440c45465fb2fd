"""What pruning for one thing costs in another, how far searches stay from the best mask, and at what price."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .frames import groups
from .grid import SETTING, STRATUM
from .overlap import n_open

PROBLEM = [*STRATUM, *SETTING, "protect_first", "protect_last"]  # cells that search for the same minimum
Trace = Sequence[Mapping[str, Any]]


def matrix(
    frame: pd.DataFrame, outcomes: Mapping[str, pd.Series[Any]], geometric: Collection[str] = ()
) -> pd.DataFrame:
    """One row for each model, k, objective and outcome: mean over cells, spread, and what it costs.

    `outcomes` maps a label to one value a cell, lower being better. `cost` is the mean less that of the
    objective that does best on the outcome: 0 on the diagonal if each objective is best at its own. Outcomes in
    `geometric` (perplexities) have the geometric mean, which one broken mask does not decide alone; their `sd` is the
    factor exp(sd of the logarithm), and the column `geometric` says so.
    """
    rows = []
    for (model, k), cells in groups(frame, STRATUM):
        for label, values in outcomes.items():
            own, logs = values.loc[cells.index].astype(float), label in geometric
            own = own.map(np.log) if logs else own
            found = own.groupby(cells["objective"]).agg(["mean", "std", "count"])
            if logs:
                found[["mean", "std"]] = np.exp(found[["mean", "std"]])
            found["cost"] = found["mean"] - found["mean"].min()
            for objective, row in found.iterrows():
                spread = [*row[["mean", "std"]], logs, int(row["count"]), row["cost"]]
                rows.append([model, k, objective, label, *spread])
    columns = ["model", "k", "objective", "outcome", "mean", "sd", "geometric", "cells", "cost"]
    return pd.DataFrame(rows, columns=columns)


def best_known(frame: pd.DataFrame, traces: Mapping[str, Trace]) -> pd.DataFrame:
    """Each cell with `best`, the least loss of any mask of its size that some cell of the problem scored.

    `exact` tells whether some cell of the problem scored every mask, which an exhaustive search with a budget does
    not; `regret` is the loss above the best, `relative_regret`
    that as a part of what the best mask costs over the dense model (NaN where it costs nothing: a margin may
    improve), and `regret_se` that in standard errors of the loss over the calibration samples.
    """
    found = frame.copy()
    found["least"] = [
        _least(traces.get(cell, ()), int(k)) for cell, k in zip(frame["cell"], frame["k"], strict=True)
    ]
    found["least"] = found[["least", "loss"]].min(axis=1)
    found["whole"] = [
        _enumerated(traces.get(cell, ()), int(k), int(free))
        for cell, k, free in zip(frame["cell"], frame["k"], n_open(frame), strict=True)
    ]
    problems = found.groupby(PROBLEM, dropna=False)
    found["best"] = problems["least"].transform("min")
    found["exact"] = problems["whole"].transform("any").astype(bool)
    found["regret"] = found["loss"] - found["best"]
    damage = found["best"] - found["dense_loss"]
    found["relative_regret"] = np.where(damage > 0, found["regret"] / damage.where(damage > 0), np.nan)
    error = found["standard_error"].astype(float)
    found["regret_se"] = np.where(error > 0, found["regret"] / error.where(error > 0), np.nan)
    return found.drop(columns=["least", "whole"])


def _least(trace: Trace, k: int) -> float:
    return min((float(s["loss"]) for s in trace if len(s["dropped"]) == k), default=float("nan"))


def _enumerated(trace: Trace, k: int, free: int) -> bool:
    """Whether a trace holds every mask of k among the `free` blocks, each scored on all samples."""
    return len({tuple(s["dropped"]) for s in trace if len(s["dropped"]) == k}) == math.comb(free, k)


def seconds(traces: Iterable[Trace]) -> dict[tuple[int, ...], float]:
    """What each mask of a problem cost whoever paid for it; in other cells' traces it stands with 0."""
    paid: dict[tuple[int, ...], float] = {}
    for trace in traces:
        for score in trace:
            mask = tuple(score["dropped"])
            paid[mask] = max(paid.get(mask, 0.0), float(score["seconds"]))
    return paid


def anytime(trace: Trace, k: int, paid: Mapping[tuple[int, ...], float]) -> pd.DataFrame:
    """The curve of a search: scores and seconds spent, and the least loss of a mask of k blocks until then.

    Every mask is charged what its evaluation took, also where another cell had paid for it. The dense
    model's score is not the search's and not charged.
    """
    rows, spent, number, best = [], 0.0, 0, float("inf")
    for score in trace:
        if not score["dropped"]:
            continue
        number += 1
        spent += paid.get(tuple(score["dropped"]), float(score["seconds"]))
        if len(score["dropped"]) == k:
            best = min(best, float(score["loss"]))
            rows.append([number, spent, best])
    return pd.DataFrame(rows, columns=["scores", "seconds", "best"])


def pareto(cost: Sequence[float], quality: Sequence[float]) -> list[bool]:
    """Which points no other point beats: none costs less or the same and is better (lower), or the reverse.

    A point with a NaN is never on the front. Equal points are on it together.
    """
    points = np.column_stack([np.asarray(cost, float), np.asarray(quality, float)])
    front = []
    for point in points:
        no_worse, better = (points <= point).all(axis=1), (points < point).any(axis=1)
        front.append(not np.isnan(point).any() and not bool((no_worse & better).any()))
    return front
