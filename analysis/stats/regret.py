"""How far the mask of each search is from the best known mask of its problem."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pruning.core import complete_masks

from .crossed import Trace, complete_scores
from .frames import groups
from .grid import SETTING, STRATUM
from .removal import budgets, column, free, n_open
from .sample_losses import sample_losses
from .window_pairs import paired

# Cells with equal values in these columns minimise the same loss.
PROBLEM = [*STRATUM, *SETTING, "protect_first", "protect_last"]
MaskLosses = Mapping[tuple[int, ...], float]


def mask_losses(frame: pd.DataFrame, traces: Mapping[str, Trace]) -> dict[str, MaskLosses]:
    """For each finished cell, one loss for every complete mask that was scored in cells of its problem.

    Cells that did not share scores have rounded the loss of the same mask differently, by about one part in a
    thousand in bfloat16. The mean over cells is taken, so that such a difference is not mistaken for regret. Cells
    of one problem share the object. A mask is complete if it removes k units, or what the cell's budget asks for
    (`pruning.core.complete_masks`).
    """
    known: dict[str, MaskLosses] = {}
    for _, problem in groups(frame.assign(budget_record=pd.Series(budgets(frame), frame.index)), PROBLEM):
        losses: dict[tuple[int, ...], list[float]] = {}
        columns = ("cell", "k", "budget_record", "dropped", "loss")
        for cell, k, budget, dropped, loss in zip(*(problem[name] for name in columns), strict=True):
            scores = complete_scores(traces.get(cell, ()), int(k), budget)
            own = {mask: float(score["loss"]) for mask, score in scores.items()}
            for mask, value in {dropped: float(loss), **own}.items():
                losses.setdefault(mask, []).append(value)
        means = {mask: math.fsum(values) / len(values) for mask, values in losses.items()}
        known |= dict.fromkeys(map(str, problem["cell"]), means)
    return known


def best_known(
    frame: pd.DataFrame, traces: Mapping[str, Trace], losses: Mapping[str, MaskLosses] | None = None
) -> pd.DataFrame:
    """Add `best` to each cell: the lowest loss of all complete masks that were scored in cells of the same problem.

    `exact` is true if some cell of the problem scored every mask; an exhaustive search with a budget can score fewer.
    `mask_loss` is the loss of the cell's mask in `mask_losses`. `regret` is `mask_loss` minus `best`.
    `relative_regret` is regret / (`best` - dense loss). It is NaN if this divisor is not positive (pruning can
    improve a margin). `regret_se` is the regret in standard errors (`in_errors`). `losses` are those of
    `mask_losses`, if they are known already.
    """
    scored, known = frame.copy(), losses or mask_losses(frame, traces)
    cells = list(zip(frame["cell"].astype(str), frame["dropped"], strict=True))
    scored["best"] = [min(known[cell].values()) for cell, _ in cells]
    scored["mask_loss"] = [known[cell][mask] for cell, mask in cells]
    scored["regret"] = scored["mask_loss"] - scored["best"]
    scored["whole"] = list(_enumerated(frame, traces))
    scored["exact"] = scored.groupby(PROBLEM, dropna=False)["whole"].transform("any").astype(bool)
    damage = scored["best"] - scored["dense_loss"]
    scored["relative_regret"] = np.where(damage > 0, scored["regret"] / damage.where(damage > 0), np.nan)
    scored["regret_se"] = in_errors(scored, traces, known)
    return scored.drop(columns="whole")


def in_errors(
    scored: pd.DataFrame, traces: Mapping[str, Trace], losses: Mapping[str, MaskLosses]
) -> pd.Series[float]:
    """The regret of each cell in standard errors of the paired difference between its mask and the best known mask.

    Both masks are compared on the same calibration samples. It is 0 if a cell has no regret, and NaN if samples
    cannot be paired (`sample_losses`) or if there is only one.
    """
    found = pd.Series(np.where(scored["regret"] > 0, np.nan, 0.0), scored.index)
    for _, problem in groups(scored, PROBLEM):
        means = losses[str(problem["cell"].iloc[0])]
        best = min(means, key=lambda mask: means[mask])
        of = sample_losses(problem, traces, {best, *problem["dropped"]})
        for row, mask, regret in zip(problem.index, problem["dropped"], problem["regret"], strict=True):
            if regret > 0 and best in of and mask in of:
                error = paired(of[mask], of[best]).error
                found[row] = regret / error if error > 0 else np.nan
    return found


def _enumerated(frame: pd.DataFrame, traces: Mapping[str, Trace]) -> Iterator[bool]:
    """Whether each cell scored every complete mask."""
    columns = (frame["cell"], frame["k"], budgets(frame), _spaces(frame))
    for cell, k, budget, size in zip(*columns, strict=True):
        yield len(complete_scores(traces.get(cell, ()), int(k), budget)) == size


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
