"""The numbers of figure 7: the loss of each search above that of the best known mask, on its way and at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..data.load import done
from ..stats import crossed, regret, search_cost
from ..stats.crossed import Trace
from ..stats.draw_means import CellDraws, over_draws
from ..stats.frames import each, groups
from ..stats.grid import STRATUM
from ..stats.removal import budgets
from ..stats.search_means import compared

COSTS = {"scores": "masks scored", "seconds": "seconds of a search alone", "forwards": "block forwards"}
GROUP = ["objective", *STRATUM]


def measure(
    frame: pd.DataFrame, traces: Mapping[str, Trace], lines: Mapping[str, Trace]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean curves (one row per step of a search) and ends (one row per search), for each objective, model and k.

    `lines` are the `traces` with the partial scores of races, which also cost time.
    """
    cells = done(frame)
    losses = regret.mask_losses(cells, traces)
    known = regret.best_known(cells, traces, losses)
    known = known.join(search_cost.alone(known, lines))
    costs = search_cost.shared_costs(known, lines)
    steps = {}
    for row, budget in zip(each(known), budgets(known), strict=True):
        cost = costs[str(row.cell)]
        trace, k = lines[str(row.cell)], int(float(str(row.k)))
        curve = crossed.anytime(trace, k, cost.masks, budget, losses[str(row.cell)])
        excess = {"excess": curve["best"] - row.best, "seconds": curve["seconds"] + cost.start}
        steps[str(row.cell)] = curve.assign(**excess)
    curves, ends = [], []
    for keys, panel in groups(known, GROUP):
        whole, note = compared(panel)
        for algo, searched in groups(whole, "algo"):
            where = dict(zip(GROUP, keys, strict=True)) | {"algo": algo}
            curves.append(_mean_curve([steps[cell] for cell in searched["cell"]]).assign(**where))
            ends.append(where | _end(searched) | {"draws_note": note})
    return pd.concat(curves, ignore_index=True), _fronts(pd.DataFrame(ends))


def _mean_curve(curves: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The mean curve over cells, one row per number of scores. A curve that has ended keeps its final value."""
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return pd.DataFrame(columns=["scores", "seconds", "excess"])
    start = max(int(curve["scores"].iloc[0]) for curve in curves)
    at = np.arange(start, max(int(curve["scores"].iloc[-1]) for curve in curves) + 1)
    filled = [c.set_index("scores").reindex(range(1, at[-1] + 1)).ffill().loc[at] for c in curves]
    means = {name: np.mean([h[name].to_numpy() for h in filled], axis=0) for name in ("seconds", "excess")}
    return pd.DataFrame({"scores": at, **means})


def _end(cells: pd.DataFrame) -> dict[str, Any]:
    """Mean costs and mean excess of a search, with the interval of the excess over draws; it is at least 0."""
    named = {"scores": "asked", "seconds": "seconds_alone", "forwards": "forwards_alone"}
    costs = {cost: float(cells[column].astype(float).mean()) for cost, column in named.items()}
    excess = over_draws(cells["regret"], CellDraws.of(cells))
    ends = {
        "excess": excess.mean,
        "low": float(np.maximum(0.0, excess.low)),
        "high": excess.high,
        "draws": excess.draws,
    }
    return {"cells": len(cells), **costs, **ends}


def _fronts(ends: pd.DataFrame) -> pd.DataFrame:
    for cost in COSTS:
        ends[f"front_{cost}"] = False
        for _, panel in groups(ends, GROUP):
            ends.loc[panel.index, f"front_{cost}"] = crossed.pareto(list(panel[cost]), list(panel["excess"]))
    return ends
