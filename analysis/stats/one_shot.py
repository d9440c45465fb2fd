"""How much better than one-shot's mask the best known mask is, on the same calibration samples.

The two masks of a problem have a loss on every sample. The paired differences have a much smaller error than the
losses: the standard error of a loss can be half of all that pruning costs. The best known mask was chosen on these
samples, so the gain is flattering to the better search.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .crossed import Trace
from .draw_means import DATA, CellDraws, DrawMean, over_draws
from .frames import groups
from .grid import DRAW, labels
from .regret import PROBLEM
from .sample_losses import sample_losses
from .window_pairs import paired

REFERENCE = "one_shot"
COLUMNS = ["model", "k", "objective", "drawn", "gain", "low", "high", "relative"]


def gains(cells: pd.DataFrame, traces: Mapping[str, Trace]) -> pd.DataFrame:
    """One row per problem that one-shot solved: the gain of the best known mask, with its 95 percent interval.

    The gain is the mean paired difference of losses. `relative` is the gain divided by the rise of one-shot's loss
    above the dense model's, NaN if one-shot's mask lowers the loss. `drawn` numbers the draw, the data and its
    source. Problems whose losses are not plain means over samples, or that one search alone has scored, are left out.
    """
    rows = []
    numbers = list(zip(*(labels(cells, columns) for columns in (DRAW, DATA, ["calibration"])), strict=True))
    for _, problem in groups(cells.assign(drawn=pd.Series(numbers, cells.index)), PROBLEM):
        own = problem[problem["algo"] == REFERENCE]
        if len(own) and problem["algo"].nunique() > 1:
            row = own.iloc[0]
            if (found := _gain(row, sample_losses(problem, traces))) is not None:
                rows.append([row["model"], row["k"], row["objective"], row["drawn"], *found])
    return pd.DataFrame(rows, columns=COLUMNS)


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
