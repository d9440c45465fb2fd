"""Estimate from the per-sample losses in a trace whether other samples would give another mask. No model is run.

The last decision of a search is resampled: the choice among the complete masks that it scored. If a search scored
fewer than two such masks, as one-shot does, it chose single units by their losses. Then this choice is resampled,
unless the units have different costs, because then it was no choice of the best k. Earlier decisions are not
repeated, so the numbers are lower bounds on instability.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from pruning.core.mask import BudgetRecord, is_complete
from pruning.core.records import DoneResult

from . import mask_overlap
from .agreement import LEVEL
from .crossed import Trace, complete_scores
from .grid import STRATUM, budgets, groups, kept_terms, terms_beside

Losses = NDArray[np.float64]
Chosen = NDArray[np.bool_]


@dataclass(frozen=True)
class Decision:
    """Candidates and their per-sample losses (candidates, samples).

    `size` is how many candidates are chosen: 1 if they are whole masks, k if they are single units.
    """

    candidates: tuple[tuple[int, ...], ...]
    losses: Losses
    size: int

    def choose(self, weights: NDArray[np.float64]) -> Chosen:
        """The removed units (resamples, units) for each row of sample weights (resamples, samples).

        The first candidate wins a tie.
        """
        means = weights @ self.losses.T / weights.sum(axis=1, keepdims=True)
        if self.size == 1:
            return np.asarray(self._members[means.argmin(axis=1)])
        order = np.argsort(means, axis=1, kind="stable")[:, : self.size]
        return np.asarray(self._members[order].any(axis=1))

    @cached_property
    def _members(self) -> Chosen:
        """The units of each candidate (candidates, units)."""
        members = np.zeros((len(self.candidates), 1 + max(map(max, self.candidates))), dtype=bool)
        for row, candidate in zip(members, self.candidates, strict=True):
            row[list(candidate)] = True
        return members

    @property
    def chosen(self) -> Chosen:
        """The removed units (units,) if all samples have equal weight."""
        return np.asarray(self.choose(np.ones((1, self.losses.shape[1])))[0])


def last_decision(
    trace: Sequence[Mapping[str, Any]], k: int, budget: BudgetRecord | None = None
) -> Decision | None:
    """The last decision of a search; None if its trace has none, or if its samples have unequal weights."""
    if not trace or not _plain_means(trace):
        return None
    complete = [score for score in trace if is_complete(score["dropped"], k, budget)]
    singles = [score for score in trace if len(score["dropped"]) == 1]
    chosen = k if budget is None else _chosen_singles(singles, budget)
    for scores, size in ((complete, 1), (singles, chosen)):
        if size is not None and len(scores) > size:
            candidates = tuple(tuple(score["dropped"]) for score in scores)
            return Decision(candidates, np.array([score["samples"] for score in scores], float), size)
    return None


def refusal(trace: Sequence[Mapping[str, Any]]) -> str:
    """Why a trace has no last decision (see `last_decision`)."""
    if not trace:
        return "the trace is missing"
    if not _plain_means(trace):
        return "the loss is not a plain mean over samples"
    return "no rival of the chosen mask was scored on all samples (a race can rule out all of them early)"


def _chosen_singles(singles: Sequence[Mapping[str, Any]], budget: BudgetRecord) -> int | None:
    """How many single units meet the budget; None if they have different costs."""
    costs = {budget["costs"][unit] for score in singles for unit in score["dropped"]}
    return -(-budget["least"] // costs.pop()) if len(costs) == 1 else None


def _plain_means(trace: Sequence[Mapping[str, Any]]) -> bool:
    """Whether each loss is the unweighted mean over samples. False for losses of mixed objectives."""
    means = np.array([np.mean(score["samples"]) for score in trace])
    losses = np.array([score["loss"] for score in trace], float)
    return bool(np.all(np.abs(means - losses) <= 1e-6 + 0.02 * losses.std()))


def resampled(decision: Decision, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """How often bootstrapped calibration samples change the mask, and the mean Jaccard overlap with the old mask."""
    n = decision.losses.shape[1]
    rng = np.random.default_rng(seed)
    chosen = decision.choose(rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float))
    same, overlap = _agreement(chosen, decision.chosen)
    return 1.0 - same, overlap


def curve(decision: Decision, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
    """How often subsets of n samples choose the same mask as all N samples, for n up to N / 2.

    Subsets are drawn without replacement. `pair` is how often two disjoint subsets of n samples choose the
    same mask. Two such subsets resemble two studies with different samples. A subset agrees more often with all N
    samples, because it is a part of them.
    """
    n_all = decision.losses.shape[1]
    rng = np.random.default_rng(seed)
    rows = []
    for n in _sizes(n_all):
        order = rng.random((resamples, n_all)).argsort(axis=1).argsort(axis=1)
        first, second = ((order < n).astype(float), ((order >= n) & (order < 2 * n)).astype(float))
        a, b = decision.choose(first), decision.choose(second)
        rows.append([n, *_agreement(a, decision.chosen), *_agreement(a, b)])
    return pd.DataFrame(rows, columns=["n", "same", "overlap", "pair", "pair_overlap"])


def enough(agreement: pd.DataFrame, column: str = "same", level: float = 0.9) -> int | None:
    """The smallest n such that agreement is at least `level` at n and at every larger n; None if there is none."""
    below = agreement.loc[agreement[column] < level, "n"]
    above = agreement.loc[agreement["n"] > (below.max() if len(below) else 0), "n"]
    return int(above.min()) if len(above) else None


def _sizes(n: int) -> list[int]:
    """The powers of two up to half of n, and half of n."""
    half = n // 2
    powers = [2**i for i in range(half.bit_length()) if 2**i <= half]
    return sorted({*powers, half} - {0})


def _agreement(first: Chosen, second: Chosen) -> tuple[float, float]:
    """How often two sets of units (resamples, units) are equal, and their mean Jaccard overlap."""
    both, either = (first & second).sum(axis=1), (first | second).sum(axis=1)
    return float(np.mean((first == second).all(axis=1))), float(np.mean(both / either))


# Whether an objective rates a pruned model clearly worse, or clearly better, than the whole one.


def damages(cells: pd.DataFrame, traces: Mapping[str, Trace]) -> pd.DataFrame:
    """One row per cell: `objective`, `lower` (the pruned model's loss is lower), and `worse`.

    `worse` is True if the loss of the pruned model is clearly higher, False if it is clearly lower, and None if noise
    can explain the difference, or if the trace lacks the losses of samples. Losses are paired by sample (one-sided
    Student's t tests). A search chose the mask on these samples, which flatters the mask: so the p-value of a lower
    loss is multiplied by the number of scores that the search asked for.
    """
    rows = []
    columns = ("cell", "objective", "dropped", "asked", "loss", "dense_loss")
    for cell, objective, dropped, asked, loss, dense in zip(*(cells[c] for c in columns), strict=True):
        tests = 1.0 if pd.isna(asked) else max(1.0, float(asked))
        rows.append([objective, loss < dense, _worse(traces.get(str(cell), ()), dropped, tests)])
    return pd.DataFrame(rows, columns=["objective", "lower", "worse"], dtype=object)


def _worse(trace: Trace, dropped: tuple[int, ...], tests: float) -> bool | None:
    scores = {tuple(score["dropped"]): np.array(score["samples"], float) for score in trace}
    own, dense = scores.get(dropped), scores.get(())
    if own is None or dense is None or len(own) != len(dense) or len(own) < 2:
        return None
    differences = own - dense
    error = float(differences.std(ddof=1)) / len(own) ** 0.5
    if error == 0:
        return None
    t = float(differences.mean()) / error
    higher, lower = (float(stats.t.sf(side * t, len(own) - 1)) for side in (1, -1))
    return True if higher <= LEVEL else False if tests * lower <= LEVEL else None


# The losses of masks on each calibration sample, so that two masks can be compared on the same samples.

Removed = tuple[int, ...]


def sample_losses(
    problem: pd.DataFrame, traces: Mapping[str, Trace], masks: Set[Removed] | None = None
) -> dict[Removed, NDArray[np.float64]]:
    """The losses (samples,) of the complete masks that some cell of a problem has scored on all samples.

    `masks` are the masks to look for; by default, all. If several cells have scored a mask, its losses are means over
    these cells, as in `regret.mask_losses`. Nothing is returned if the loss of a mask is not the plain mean of its
    samples, or if cells have different numbers of samples: then samples cannot be paired.
    """
    known: dict[Removed, list[NDArray[np.float64]]] = {}
    for cell, k, budget in zip(problem["cell"], problem["k"], budgets(problem), strict=True):
        for mask, score in complete_scores(traces.get(cell, ()), int(k), budget).items():
            if masks is not None and mask not in masks:
                continue
            samples, loss = np.array(score["samples"], float), float(score["loss"])
            if abs(samples.mean() - loss) > 1e-6 + 1e-3 * abs(loss):
                return {}
            known.setdefault(mask, []).append(samples)
    if len({len(samples) for samples in chain.from_iterable(known.values())}) > 1:
        return {}
    return {mask: np.mean(losses, axis=0) for mask, losses in known.items()}


# How masks and outcomes change with the number of calibration samples.

# Cells with equal values in these columns can differ in the number of samples.
FAMILY = ["objective", *STRATUM, "calibration", "length", "protect_first", "protect_last"]
SEARCH = ["algo", "draw", "seed"]


def by_size(
    cells: pd.DataFrame, outcomes: Mapping[str, pd.Series[Any]], geometric: Collection[str] = ()
) -> pd.DataFrame:
    """One row for each number of samples in a family of cells that has several.

    Only searches and draws with a cell at every number of samples count, so that rows differ in nothing else. A
    number of samples is left out if it has fewer than two draws in common with the larger part of the family.
    `corrected` is the mean chance-corrected overlap of the masks of two draws, with its 95 percent interval over
    draws (`low`, `high`). Each of the `outcomes`, one value per cell, has a column with its mean; those in
    `geometric` (perplexities) have the geometric mean. A mean is NaN if a cell lacks the outcome.
    """
    rows = []
    for where, family in groups(cells, FAMILY):
        for samples, part in groups(_at_every_size(family), "samples"):
            mean = mask_overlap.mean(mask_overlap.pairs(part, "draws"))
            row = dict(zip(FAMILY, where, strict=True)) | {"samples": int(samples), "cells": len(part)}
            row |= {
                "draws": part["draw"].nunique(),
                "corrected": mean.mean,
                "low": mean.low,
                "high": mean.high,
            }
            means = {
                name: _mean(values.loc[part.index], name in geometric) for name, values in outcomes.items()
            }
            rows.append(row | means)
    columns = [*FAMILY, "samples", "cells", "draws", "corrected", "low", "high", *outcomes]
    return pd.DataFrame(rows, columns=columns)


def _at_every_size(family: pd.DataFrame) -> pd.DataFrame:
    """The cells of searches and draws that have a cell at every number of samples; none if there is one number.

    Numbers of samples are taken from the one with most cells to the one with fewest.
    """
    keys = pd.Series(list(zip(*(family[name] for name in SEARCH), strict=True)), family.index)
    sizes, shared = list[float](), set(keys)
    for samples in family["samples"].value_counts().index:
        common = shared & set(keys[family["samples"] == samples])
        if len({draw for _, draw, _ in common}) > 1:
            sizes, shared = [*sizes, samples], common
    return family[family["samples"].isin(sizes) & keys.isin(shared) & (len(sizes) > 1)]


def _mean(values: pd.Series[Any], geometric: bool) -> float:
    numbers = values.to_numpy(float)
    return float(np.exp(np.log(numbers).mean()) if geometric else numbers.mean())


# Compare two masks by their losses on the same samples: held-out windows, or the samples of the calibration.
#
# The difference of two losses has an error that is much smaller than that of each, because a sample that is hard for
# one mask is hard for the other. Measurements keep the loss of each window, so differences can be paired.

WindowPairsLosses = NDArray[np.float64]


@dataclass(frozen=True)
class PairedDifference:
    """The mean of first minus second (nats per token), its 95 % interval, and its standard error, over `windows`."""

    mean: float
    low: float
    high: float
    windows: int
    error: float


def paired(first: WindowPairsLosses, second: WindowPairsLosses) -> PairedDifference:
    """The mean difference over windows (windows,), with a Student interval. With one window, there is no error."""
    differences = np.asarray(first, float) - np.asarray(second, float)
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return PairedDifference(mean, float("nan"), float("nan"), n, float("nan"))
    error = float(differences.std(ddof=1) / np.sqrt(n))
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return PairedDifference(mean, mean - half, mean + half, n, error)


def window_losses(
    results: Path, result: DoneResult, metrics: Sequence[str], which: str = "pruned"
) -> WindowPairsLosses | None:
    """The losses of a cell's mask on the windows of all metrics; None if older versions did not keep them."""
    return joined([_losses(kept_terms(results, result, metric, which)) for metric in metrics])


def joined(parts: Sequence[WindowPairsLosses | None]) -> WindowPairsLosses | None:
    """The losses of several metrics, one after the other; None if some are not known."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known and len(known) == len(parts) else None


def losses_of(measured: Path) -> WindowPairsLosses | None:
    """The losses of windows that were kept beside the file of a measurement; None if there are none."""
    return _losses(terms_beside(measured))


def _losses(terms: Mapping[str, Any] | None) -> WindowPairsLosses | None:
    return np.array(terms["losses"], float) if terms and "losses" in terms else None
