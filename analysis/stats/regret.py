"""How far the loss of each search's mask is above that of the best known mask, and what each search costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from pruning.core.scoring import scored

from .crossed import Trace, complete_scores
from .grid import SETTING, STRATUM, bare, budgets, groups, n_open
from .same_samples import Removed, paired, sample_losses

# Cells with equal values in these columns minimise the same loss.
PROBLEM = [*STRATUM, *SETTING, "protect_first", "protect_last"]


def best_known(frame: pd.DataFrame, traces: Mapping[str, Trace]) -> pd.DataFrame:
    """Add two columns to finished cells. Cells of one problem have the same model, k, setting and protected blocks.

    `best` is the lowest loss of all complete masks that cells of the same problem scored. A mask is complete
    if it removes k units or, if there is a budget, meets the budget. `regret` is the loss of the cell's mask minus
    `best`. `regret_se` is the regret divided by the standard error of the paired difference from the best
    known mask; NaN if samples cannot be paired (`sample_losses`) or if there is only one sample. `exact` is
    true if some cell of the problem scored every mask of k units; with a budget, it is false.
    """
    parts = []
    for _, problem in groups(frame.assign(budget_record=pd.Series(budgets(frame), frame.index)), PROBLEM):
        losses = _mask_losses(problem, traces)
        best = min(losses, key=lambda mask: losses[mask])
        regrets = [losses[mask] - losses[best] for mask in problem["dropped"]]
        of = sample_losses(problem, traces, {best, *problem["dropped"]})
        errors = []
        for mask, regret in zip(problem["dropped"], regrets, strict=True):
            error = paired(of[mask], of[best]).error if best in of and mask in of else 0.0
            errors.append(0.0 if regret == 0 else regret / error if error > 0 else math.nan)
        found = {"best": losses[best], "regret": regrets, "regret_se": errors}
        parts.append(pd.DataFrame(found | {"exact": _enumerated(problem, traces)}, problem.index))
    return frame.join(pd.concat(parts))


def _mask_losses(problem: pd.DataFrame, traces: Mapping[str, Trace]) -> dict[Removed, float]:
    """The loss of every complete mask that cells of a problem have scored or found.

    Cells that did not share scores round a mask's loss differently, by about one part in a thousand in
    bfloat16. The mean over cells is used, so that such a difference is not mistaken for regret.
    """
    losses: dict[Removed, list[float]] = {}
    columns = ("cell", "k", "budget_record", "dropped", "loss")
    for cell, k, budget, dropped, loss in zip(*(problem[name] for name in columns), strict=True):
        scores = complete_scores(traces.get(cell, ()), int(k), budget)
        own = {mask: float(score["loss"]) for mask, score in scores.items()}
        for mask, value in {dropped: float(loss), **own}.items():
            losses.setdefault(mask, []).append(value)
    return {mask: math.fsum(values) / len(values) for mask, values in losses.items()}


def _enumerated(problem: pd.DataFrame, traces: Mapping[str, Trace]) -> bool:
    """Whether a cell of the problem scored every mask of k units."""
    return any(
        budget is None
        and len(complete_scores(traces.get(cell, ()), int(k), None)) == math.comb(int(n), int(k))
        for cell, k, budget, n in zip(
            problem["cell"], problem["k"], problem["budget_record"], n_open(problem), strict=True
        )
    )


# One-shot search is exact by construction if an objective's loss is a sum over the removed units. That every
# search then finds the best mask is arithmetic and not a finding, so verdicts leave these objectives out.

# The largest error allowed in a sum, relative to the largest rise. Cells compute hidden states in bfloat16 and round
# them differently: in the archived studies, sums of `block_influence` are off by up to 3.8e-4. For objectives whose
# losses do not add up, sums are off by at least 3.8e-3 in every cell. This threshold is between the two.
EXACT = 1e-3


def exact_by_construction(cells: pd.DataFrame, traces: Mapping[str, Trace]) -> frozenset[str]:
    """The objectives whose losses are additive in all of the finished `cells`."""
    parts = groups(cells, "objective")
    found = {str(name): additive(traces.get(str(cell), ()) for cell in part["cell"]) for name, part in parts}
    return frozenset(name for name, adds_up in found.items() if adds_up)


def additive(traces: Iterable[Trace]) -> bool | None:
    """Whether losses are additive: the rise of a mask is the sum of its units'. None if no mask can be tested."""
    compared = None
    for trace in traces:
        losses = {tuple(score["dropped"]): float(score["loss"]) for score in trace}
        dense = losses.get((), math.nan)
        rises = {mask: loss - dense for mask, loss in losses.items() if not math.isnan(dense)}
        larger = [mask for mask in rises if len(mask) > 1 and all((unit,) in rises for unit in mask)]
        if larger:
            compared = True
            own = np.array([rises[mask] for mask in larger])
            sums = np.array([sum(rises[unit,] for unit in mask) for mask in larger])
            if np.abs(own - sums).max() > EXACT * np.abs(own).max():
                return False
    return compared


# The gain of the best known mask over one-shot's mask, paired on the same calibration samples. The best known
# mask was chosen on these samples, so the gain is biased upwards.

BASE = "one_shot"


def gains(cells: pd.DataFrame, traces: Mapping[str, Trace]) -> pd.DataFrame:
    """One row per problem that one-shot solved: the gain of the best known mask over one-shot's, with 95 % interval.

    The gain is the mean paired loss difference. `relative` is the gain divided by the rise of one-shot's loss
    above the dense model's; NaN if one-shot's mask does not raise the loss. A problem is left out if its losses are
    not plain means over samples, or if it has only one search.
    """
    rows, where = [], [*STRATUM, *SETTING]
    for _, problem in groups(cells, PROBLEM):
        own = problem[problem["algo"] == BASE]
        if own.empty or problem["algo"].nunique() < 2:
            continue
        row, known = own.iloc[0], sample_losses(problem, traces)
        if (mask := tuple(row["dropped"])) in known:
            best = min(known.values(), key=lambda losses: float(losses.mean()))
            found, damage = paired(known[mask], best), float(row["loss"] - row["dense_loss"])
            relative = found.mean / damage if damage > 0 else float("nan")
            rows.append([*row[where], found.mean, found.low, found.high, relative])
    return pd.DataFrame(rows, columns=[*where, "gain", "low", "high", "relative"])


# What each search would cost alone. Cells share scores, so recorded seconds depend on the order in which cells ran.
# Here a search pays, for every mask that it asked for, the seconds that the score took in the cell that
# computed it. It also pays for its own computation: its recorded seconds minus those of its scores.

# Cells with equal values in these columns share scores, whatever they remove.
SHARING = ["whole_model", "n_units", *SETTING]


def seconds(traces: Iterable[Trace]) -> dict[tuple[int, ...], float]:
    """The seconds per sample that the score of each mask took.

    A reused score has 0 seconds. If a mask has several scores, as in a race, the one with the most seconds counts.
    """
    longest: dict[tuple[int, ...], tuple[float, int]] = {}
    for trace in traces:
        for score in trace:
            mask = tuple(score["dropped"])
            line = (float(score["seconds"]), scored(score))
            longest[mask] = max(longest.get(mask, line), line)
    return {mask: spent / samples for mask, (spent, samples) in longest.items()}


def seconds_alone(cells: pd.DataFrame, traces: Mapping[str, Trace]) -> pd.Series[float]:
    """The seconds that each finished cell would take if no scores were shared; `traces` include partial scores.

    If a mask was scored on a part of the samples, only that part counts. An objective that needs only one pass
    of the dense model pays for this pass once. A score from another study costs the mean of known times.
    """
    found = pd.Series(np.nan, cells.index, name="seconds_alone")
    for _, sharing in groups(cells.assign(whole_model=cells["model"].map(bare)), SHARING):
        forwards, alone = (sharing[name].astype(float) for name in ("block_forwards", "block_forwards_alone"))
        paid, start = seconds(traces[cell] for cell in sharing["cell"]), 0.0
        if (forwards > 0).any() and (alone == 0).all():  # a criterion: no score needed a pass of its own
            start = float(np.median([_spent(traces[cell]) for cell in sharing.loc[forwards > 0, "cell"]]))
            paid = dict.fromkeys(paid, 0.0)
        positive = [value for value in paid.values() if value > 0]
        mean = sum(positive) / len(positive) if positive else 0.0
        for row, cell, recorded in zip(sharing.index, sharing["cell"], sharing["seconds"], strict=True):
            samples: dict[Removed, int] = {}  # each mask's number of samples; in a race, often not all
            for score in traces[cell]:
                mask = tuple(score["dropped"])
                samples[mask] = max(samples.get(mask, 0), scored(score))
            asked = start + sum((paid[mask] or mean) * n for mask, n in samples.items())
            found[row] = asked + max(0.0, float(recorded) - _spent(traces[cell]))
    return found


def _spent(trace: Trace) -> float:
    """The seconds a cell spent on scores. In races, a mask's lines hold running totals, so the maximum counts."""
    spent: dict[Removed, float] = {}
    for score in trace:
        mask = tuple(score["dropped"])
        spent[mask] = max(spent.get(mask, 0.0), float(score["seconds"]))
    return sum(spent.values())
