"""How much worse each objective's masks are than those of the best objective, in standard errors of the difference.

The error has two parts. Other calibration draws would give other masks: the standard error over draws, of the paired
difference if both objectives read the same draws. And other held-out windows or items would give other means: the
recorded standard errors of both objectives, taken as independent. Both read the same windows and items, so this part
is too large, and a difference is never overstated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pruning.core.metric_names import error_of

from . import common_searches
from .draw_means import CellDraws, over_draws
from .frames import groups
from .grid import STRATUM, several_sizes


def differences(
    cells: pd.DataFrame, outcomes: Mapping[str, pd.Series[Any]], geometric: frozenset[str] = frozenset()
) -> pd.DataFrame:
    """One row for each model, k, objective and outcome: `errors`, `worse` in standard errors; `draws`.

    `outcomes` maps a metric to one value per finished cell, lower is better; those in `geometric` are compared by
    their logarithms. `errors` is the standard error of the difference from the best objective; it is NaN for the best
    one, if there are fewer than two draws of each data, if draws of several sizes contain each other, and if the
    objectives have no search in common (`common_searches`).
    """
    rows = []
    drawn = CellDraws.of(cells)
    numbered = cells.assign(draw_number=drawn.draw, data_number=drawn.data)
    for (model, k), cells_of in groups(numbered, STRATUM):
        stratum, note = common_searches.compared(cells_of)
        for name, values in outcomes.items():
            logs = name in geometric
            outcome = values.loc[stratum.index].astype(float)
            outcome = outcome.map(np.log) if logs else outcome
            found = _against_best(stratum, outcome, _held_out(cells, name, logs))
            if note == common_searches.DIFFERENT:
                found = [[objective, np.nan, np.nan, draws] for objective, _, _, draws in found]
            rows += [[model, k, name, *row] for row in found]
    return pd.DataFrame(rows, columns=["model", "k", "outcome", "objective", "errors", "worse", "draws"])


def _held_out(cells: pd.DataFrame, name: str, logs: bool) -> pd.Series[Any]:
    """The recorded standard error of a metric in each cell, of its logarithm if `logs`; 0 if it was not recorded."""
    recorded = f"pruned/{error_of(name)}"
    if recorded not in cells:
        return pd.Series(0.0, cells.index)
    error = cells[recorded].astype(float)
    return (error / cells[f"pruned/{name}"].astype(float) if logs else 100 * error).fillna(0.0)


def _against_best(
    stratum: pd.DataFrame, outcome: pd.Series[Any], held_out: pd.Series[Any]
) -> list[list[Any]]:
    parts = {str(name): part for name, part in groups(stratum, "objective")}
    known = {name: outcome[part.index].dropna() for name, part in parts.items()}
    means = {name: float(values.mean()) for name, values in known.items() if len(values)}
    best = min(means, key=lambda name: means[name], default="")
    rows: list[list[Any]] = []
    for name, part in parts.items():
        draws = part.loc[known[name].index, "draw_number"].nunique()
        if name not in means or name == best:
            rows.append([name, np.nan, 0.0 if name == best else np.nan, draws])
            continue
        pair = stratum.loc[[*known[name].index, *known[best].index]]
        items = np.hypot(held_out[known[name].index].mean(), held_out[known[best].index].mean())
        error = float(np.hypot(_over_draws(pair, outcome, name, best), items))
        difference = means[name] - means[best]
        rows.append([name, error, _ratio(difference, error), draws])
    return rows


def _ratio(difference: float, error: float) -> float:
    """A difference in standard errors; NaN if the error is unknown, infinite if there is none but a difference."""
    if error == 0:
        return float("inf") if difference > 0 else 0.0
    return difference / error


def _over_draws(pair: pd.DataFrame, outcome: pd.Series[Any], name: str, best: str) -> float:
    """The standard error over draws of the mean of `name` minus that of `best`; NaN if it cannot be computed."""
    if several_sizes(pair):
        return float("nan")
    values = pair.assign(value=outcome[pair.index])
    by_draw = values.pivot_table(index=["draw_number", "data_number"], columns="objective", values="value")
    if by_draw.notna().all(axis=None):
        return _error(by_draw[name] - by_draw[best])
    return float(np.hypot(_error(by_draw[name].dropna()), _error(by_draw[best].dropna())))


def _error(by_draw: pd.Series[Any]) -> float:
    draw, data = (by_draw.index.get_level_values(i).to_numpy() for i in (0, 1))
    return over_draws(by_draw.to_numpy(), CellDraws(draw, data)).error
