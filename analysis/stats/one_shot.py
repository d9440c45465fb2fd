"""How much better than one-shot's mask the best known mask is, on the same calibration samples.

The two masks of a problem have a loss on every sample. The paired differences have a much smaller error than the
losses: the standard error of a loss can be half of all that pruning costs. The best known mask was chosen on these
samples, so the gain is flattering to the better search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .crossed import complete_scores
from .draw_means import DATA, CellDraws, DrawMean, over_draws
from .frames import groups
from .grid import DRAW, labels
from .regret import PROBLEM
from .removal import budgets
from .window_pairs import paired

REFERENCE = "one_shot"
COLUMNS = ["model", "k", "objective", "drawn", "gain", "low", "high", "relative"]
Trace = Sequence[Mapping[str, Any]]


def gains(cells: pd.DataFrame, traces: Mapping[str, Trace]) -> pd.DataFrame:
    """One row per problem that one-shot solved: the gain of the best known mask, with its 95 percent interval.

    The gain is the mean paired difference of losses. `relative` is the gain divided by the rise of one-shot's loss
    above the dense model's, NaN if one-shot's mask lowers the loss. `drawn` numbers the draw, the data and its
    source. Problems whose losses are not plain means over samples, or that one search alone has scored, are left out.
    """
    rows = []
    numbers = list(zip(*(labels(cells, columns) for columns in (DRAW, DATA, ["calibration"])), strict=True))
    drawn, removed = (pd.Series(values, cells.index) for values in (numbers, budgets(cells)))
    numbered = cells.assign(drawn=drawn, budget_record=removed)
    for _, problem in groups(numbered, PROBLEM):
        own = problem[problem["algo"] == REFERENCE]
        if len(own) and problem["algo"].nunique() > 1:
            row = own.iloc[0]
            known = _losses(problem, traces)
            if (found := _gain(row, known)) is not None:
                rows.append([row["model"], row["k"], row["objective"], row["drawn"], *found])
    return pd.DataFrame(rows, columns=COLUMNS)


def _losses(problem: pd.DataFrame, traces: Mapping[str, Trace]) -> dict[tuple[int, ...], NDArray[np.float64]]:
    """The losses (samples,) of every complete mask that a search of the problem has scored on all samples.

    If several cells have scored a mask, its losses are means over these cells, as in `regret.mask_losses`.
    """
    known: dict[tuple[int, ...], list[NDArray[np.float64]]] = {}
    plain = True
    for cell, k, budget in zip(problem["cell"], problem["k"], problem["budget_record"], strict=True):
        for mask, score in complete_scores(traces.get(cell, ()), int(k), budget).items():
            samples, loss = np.array(score["samples"], float), float(score["loss"])
            plain &= bool(abs(samples.mean() - loss) <= 1e-6 + 1e-3 * abs(loss))
            known.setdefault(mask, []).append(samples)
    return {mask: np.mean(losses, axis=0) for mask, losses in known.items()} if plain else {}


def _gain(row: pd.Series[Any], known: Mapping[tuple[int, ...], NDArray[np.float64]]) -> list[float] | None:
    mask = tuple(row["dropped"])
    if mask not in known:
        return None
    best = min(known.values(), key=lambda losses: float(losses.mean()))
    found = paired(known[mask], best)
    damage = float(row["loss"] - row["dense_loss"])
    return [found.mean, found.low, found.high, found.mean / damage if damage > 0 else float("nan")]


def mean_gain(problems: pd.DataFrame) -> DrawMean:
    """The mean of `relative` over problems, with its interval over draws. Problems can share a draw."""
    known = problems.dropna(subset="relative")
    numbers = np.array(known["drawn"].to_list(), dtype=np.int64).reshape(-1, 3)
    return over_draws(known["relative"], CellDraws(*numbers.T))
