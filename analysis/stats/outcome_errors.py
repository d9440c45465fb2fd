"""How much worse each objective's masks are than those of the best objective, in standard errors of the difference.

The error has two parts. Other calibration draws would give other masks: the standard error over draws, of the paired
difference if both objectives read the same draws. And other held-out windows or items would give other means: the
recorded standard errors of both objectives, taken as independent. Both read the same windows and items, so this part
is too large, and a difference is never overstated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pruning.core.records import error_of

from . import grid
from .components import item_noise
from .grid import STRATUM, groups, labels, several_sizes
from .means import CellDraws, compared, over_draws
from .projections import Matrix


def differences(
    cells: pd.DataFrame, outcomes: Mapping[str, pd.Series[Any]], geometric: frozenset[str] = frozenset()
) -> pd.DataFrame:
    """One row for each model, k, objective and outcome: `errors`, `worse` in standard errors; `draws`.

    `outcomes` maps a metric to one value per finished cell, lower is better; those in `geometric` are compared by
    their logarithms. `errors` is the standard error of the difference from the best objective; it is NaN for the best
    one, if there are fewer than two draws of each data, if draws of several sizes contain each other, and if the
    objectives have no search in common (`grid.compared`).
    """
    rows = []
    drawn = CellDraws.of(cells)
    numbered = cells.assign(draw_number=drawn.draw, data_number=drawn.data)
    for (model, k), cells_of in groups(numbered, STRATUM):
        stratum, note = grid.compared(cells_of)
        for name, values in outcomes.items():
            logs = name in geometric
            outcome = values.loc[stratum.index].astype(float)
            outcome = outcome.map(np.log) if logs else outcome
            found = _against_best(stratum, outcome, _held_out(cells, name, logs))
            if note == grid.DIFFERENT:
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
    """For each objective: its name, the standard error of the difference, the difference in these errors, draws."""
    known = {str(name): outcome[part.index].dropna() for name, part in groups(stratum, "objective")}
    means = {name: float(values.mean()) for name, values in known.items() if len(values)}
    best = min(means, key=lambda name: means[name], default="")
    rows: list[list[Any]] = []
    for name, values in known.items():
        draws = stratum.loc[values.index, "draw_number"].nunique()
        if name not in means or name == best:
            rows.append([name, np.nan, 0.0 if name == best else np.nan, draws])
            continue
        pair = stratum.loc[[*values.index, *known[best].index]]
        items = np.hypot(held_out[values.index].mean(), held_out[known[best].index].mean())
        error = float(np.hypot(_over_draws(pair, outcome, name, best), items))
        difference = means[name] - means[best]
        certain = float("inf") if difference > 0 else 0.0  # no error, but a difference
        rows.append([name, error, certain if error == 0 else difference / error, draws])
    return rows


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


# The highest minus the lowest mean accuracy of the searches of a panel, and what noise alone would give.

SIMULATED = 400


@dataclass(frozen=True)
class Span:
    """One panel: its span in points, and the span that noise alone exceeds in 5 percent of cases."""

    span: float
    noise: float

    def between(self, low: float, high: float) -> bool | None:
        """Whether the true span is between `low` and `high` points; None if noise hides it.

        Noise can change a span by at most the span of the noise. So in 95 percent of cases, the true span differs
        from the measured one by at most `noise`.
        """
        least, most = self.span - self.noise, self.span + self.noise
        if most < low or least > high:
            return False
        return True if low <= least and most <= high else None


def spans(
    frame: pd.DataFrame,
    accuracy: NDArray[np.float64],
    error: float,
    answers: Mapping[str, Matrix],
    seed: int = 0,
) -> list[Span]:
    """The span of every panel (model, k, objective) with two searches or more. Accuracies (cells,) are in percent.

    The noise of the items comes from `answers` (each task: cells, items). If there are none, equal masks have equal
    noise, and that of distinct masks is independent with the standard error `error`, in points.
    """
    rng = np.random.default_rng(seed)
    if answers:
        items = item_noise(answers)
        noise = np.asarray(items @ rng.normal(size=(items.shape[1], SIMULATED)))
    else:
        mask = labels(frame.assign(dropped=frame["dropped"].map(str)), ["model", "dropped"])
        noise = np.asarray(error * rng.normal(size=(mask.max() + 1, SIMULATED))[mask])
    found = []
    for _, panel in groups(frame.assign(accuracy=accuracy, row=range(len(frame))), [*STRATUM, "objective"]):
        kept, _ = compared(panel, ["accuracy"])
        if kept["algo"].nunique() < 2:
            continue
        means = kept.groupby("algo")["accuracy"].mean()
        algo = labels(kept, ["algo"])
        weights = np.eye(algo.max() + 1)[algo] / np.bincount(algo)[algo][:, None]
        alone = np.ptp(weights.T @ noise[kept["row"].to_numpy()], axis=0)
        found.append(Span(float(means.max() - means.min()), float(np.quantile(alone, 0.95))))
    return found
