"""How far the mask of each search is from the best known mask of its problem."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pruning.core.mask import Budget

from .crossed import Trace, complete_scores, seconds
from .grid import DRAW, SETTING, STRATUM, bare, budgets, column, free, groups, labels, n_open
from .means import DATA, CellDraws, DrawMean, over_draws
from .stability import paired, sample_losses

# Cells with equal values in these columns minimise the same loss.
PROBLEM = [*STRATUM, *SETTING, "protect_first", "protect_last"]
MaskLosses = Mapping[tuple[int, ...], float]


def mask_losses(frame: pd.DataFrame, traces: Mapping[str, Trace]) -> dict[str, MaskLosses]:
    """For each finished cell, one loss for every complete mask that was scored in cells of its problem.

    Cells that did not share scores have rounded the loss of the same mask differently, by about one part in a
    thousand in bfloat16. The mean over cells is taken, so that such a difference is not mistaken for regret. Cells
    of one problem share the object. A mask is complete if it removes k units, or what the cell's budget asks for
    (`pruning.core.mask`).
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
            known[key] = Budget.recorded(budget).count(free(n_blocks, unit, first, last))
        yield known[key]


# How much better than one-shot's mask the best known mask is, on the same calibration samples.
#
# The two masks of a problem have a loss on every sample. The paired differences have a much smaller error than the
# losses: the standard error of a loss can be half of all that pruning costs. The best known mask was chosen on these
# samples, so the gain is flattering to the better search.

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


# What each search would cost alone, whichever cell computed the scores that it asked for.
#
# Cells share scores, so the recorded seconds of a cell depend on the order in which the cells ran. Here every mask
# that a search asked for is charged the seconds that its evaluation took in the cell that computed it, and the
# search is charged its own computation: its recorded seconds minus those of its evaluations.

MaskSeconds = Mapping[tuple[int, ...], float]
# Cells with equal values in these columns share scores, whatever they remove.
SHARING = ["whole_model", "n_units", *SETTING]


@dataclass(frozen=True)
class SharedCosts:
    """Seconds per sample to score each mask, and seconds before the first score.

    A criterion needs one pass of the dense model, after which every score is free: `start` is this pass, and the
    masks cost nothing. For other objectives `start` is 0.
    """

    masks: MaskSeconds
    start: float = 0.0

    def of(self, trace: Trace) -> float:
        """The seconds of all evaluations that a search asked for, each mask and sample once."""
        return self.start + sum(self.masks[mask] * samples for mask, samples in scored(trace).items())


def scored(trace: Trace) -> dict[tuple[int, ...], int]:
    """On how many samples a search scored each mask. In a race, many masks are scored on a part of the samples."""
    samples: dict[tuple[int, ...], int] = {}
    for score in trace:
        mask = tuple(score["dropped"])
        samples[mask] = max(samples.get(mask, 0), len(score["samples"]))
    return samples


def shared_costs(cells: pd.DataFrame, traces: Mapping[str, Trace]) -> dict[str, SharedCosts]:
    """For each finished cell, the costs of the masks of its problem. Cells that share scores share the object."""
    costs: dict[str, SharedCosts] = {}
    for _, sharing in groups(cells.assign(whole_model=cells["model"].map(bare)), SHARING):
        known = _criterion(sharing, traces) or SharedCosts(_masks([traces[c] for c in sharing["cell"]]))
        costs |= dict.fromkeys(map(str, sharing["cell"]), known)
    return costs


def _criterion(cells: pd.DataFrame, traces: Mapping[str, Trace]) -> SharedCosts | None:
    """The costs of a criterion: none of its scores needed a pass of its own. None for other objectives."""
    forwards, alone = (cells[name].astype(float) for name in ("block_forwards", "block_forwards_alone"))
    if not ((forwards > 0).any() and (alone == 0).all()):
        return None
    passed = [_spent(traces[cell]) for cell in cells.loc[forwards > 0, "cell"]]
    masks = {tuple(score["dropped"]) for cell in cells["cell"] for score in traces[cell]}
    return SharedCosts(dict.fromkeys(masks, 0.0), float(np.median(passed)))


def _masks(traces: Sequence[Trace]) -> MaskSeconds:
    """Seconds per sample of each mask. A mask that only other studies computed has the mean of the others."""
    paid = seconds(traces)
    known = [value for value in paid.values() if value > 0]
    mean = float(np.mean(known)) if known else 0.0
    return {mask: value or mean for mask, value in paid.items()}


def _spent(trace: Trace) -> float:
    """The seconds that a cell spent on scores. In a race, a line has the seconds of all its mask's samples so far."""
    spent: dict[tuple[int, ...], float] = {}
    for score in trace:
        mask = tuple(score["dropped"])
        spent[mask] = max(spent.get(mask, 0.0), float(score["seconds"]))
    return sum(spent.values())


def alone(cells: pd.DataFrame, traces: Mapping[str, Trace]) -> pd.DataFrame:
    """Columns for finished cells: `seconds_alone`, and `forwards_alone`, block forwards if nothing is shared at all.

    A mask that keeps K blocks needs K block forwards, a sub-layer is half a block; a mask that was scored on a part
    of the samples needs that part of them. A criterion needs one dense pass. `traces` have partial scores, too.
    """
    costs = shared_costs(cells, traces)
    rows = []
    whole = zip(cells["cell"], cells["seconds"], cells["n_blocks"], cells["n_units"], strict=True)
    for cell, recorded, n_blocks, n_units in whole:
        trace, cost = traces[str(cell)], costs[str(cell)]
        own = max(0.0, float(recorded) - _spent(trace))
        samples = scored(trace)
        whole_count = max(samples.values(), default=1)
        kept = sum((n_units - len(m)) * n / whole_count for m, n in samples.items()) * n_blocks / n_units
        rows.append([cost.of(trace) + own, float(n_blocks) if cost.start else kept])
    return pd.DataFrame(rows, cells.index, columns=["seconds_alone", "forwards_alone"])
