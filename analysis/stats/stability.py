"""Estimate from the per-sample losses in a trace whether other samples would give another mask. No model is run.

The last decision of a search is resampled: the choice among the complete masks that it scored. If a search, such
as one-shot, scored fewer than two complete masks, its choice of single units by their losses is resampled
instead. This requires units of equal cost, since otherwise the search does not simply take the k best units.
Earlier decisions are not repeated, so instability is underestimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pruning.core.mask import BudgetRecord, is_complete

from .crossed import Trace

Losses = NDArray[np.float64]
Chosen = NDArray[np.bool_]


@dataclass(frozen=True)
class Decision:
    """Candidates, and their per-sample losses of shape (candidates, samples).

    `size` is how many candidates are chosen: 1 if they are whole masks, k if they are single units.
    """

    candidates: tuple[tuple[int, ...], ...]
    losses: Losses
    size: int

    def choose(self, weights: NDArray[np.float64]) -> Chosen:
        """For each row of `weights`, of shape (resamples, samples), the removed units, of shape (resamples, units).

        If candidates tie, the first one is chosen.
        """
        means = weights @ self.losses.T / weights.sum(axis=1, keepdims=True)
        if self.size == 1:
            return np.asarray(self._members[means.argmin(axis=1)])
        order = np.argsort(means, axis=1, kind="stable")[:, : self.size]
        return np.asarray(self._members[order].any(axis=1))

    @cached_property
    def _members(self) -> Chosen:
        """The units of each candidate, of shape (candidates, units)."""
        members = np.zeros((len(self.candidates), 1 + max(map(max, self.candidates))), dtype=bool)
        for row, candidate in zip(members, self.candidates, strict=True):
            row[list(candidate)] = True
        return members

    @property
    def chosen(self) -> Chosen:
        """The removed units, of shape (units,), if all samples have equal weight."""
        return np.asarray(self.choose(np.ones((1, self.losses.shape[1])))[0])


def last_decision(trace: Trace, k: int, budget: BudgetRecord | None = None) -> Decision | None:
    """The last decision in a search's trace; None if the trace contains none, or if samples have unequal weights."""
    if not trace or not _plain_means(trace):
        return None
    complete = [score for score in trace if is_complete(score["dropped"], k, budget)]
    singles = [score for score in trace if len(score["dropped"]) == 1]
    chosen = k
    if budget is not None:
        costs = {budget["costs"][score["dropped"][0]] for score in singles}
        # If all units cost the same, this number meets the budget; otherwise units are not resampled.
        chosen = -(-budget["least"] // costs.pop()) if len(costs) == 1 else len(singles)
    for scores, size in ((complete, 1), (singles, chosen)):
        if len(scores) > size:
            candidates = tuple(tuple(score["dropped"]) for score in scores)
            return Decision(candidates, np.array([score["samples"] for score in scores], float), size)
    return None


def refusal(trace: Trace) -> str:
    """Why `last_decision` returns None for a trace."""
    if not trace:
        return "the trace is missing"
    if not _plain_means(trace):
        return "the loss is not a plain mean over samples"
    return "no rival of the chosen mask was scored on all samples (a race can rule out all of them early)"


def _plain_means(trace: Trace) -> bool:
    """Whether each loss is the unweighted mean of its per-sample losses; for mixed objectives, it is not."""
    means = np.array([score["samples"] for score in trace], float).mean(axis=1)
    losses = np.array([score["loss"] for score in trace], float)
    return bool(np.all(np.abs(means - losses) <= 1e-6 + 0.02 * losses.std()))


def resampled(decision: Decision, resamples: int = 1000, seed: int = 0) -> float:
    """The share of bootstrap resamples of the calibration samples that choose another mask."""
    n = decision.losses.shape[1]
    rng = np.random.default_rng(seed)
    chosen = decision.choose(rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float))
    return 1.0 - _agreement(chosen, decision.chosen)


def curve(decision: Decision, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
    """For n up to half of the samples, `pair`: how often two disjoint subsets of n samples choose equal masks."""
    n_all = decision.losses.shape[1]
    half = n_all // 2
    rng = np.random.default_rng(seed)
    rows = []
    for n in sorted({*(2**i for i in range(half.bit_length())), half} - {0}):
        order = rng.random((resamples, n_all)).argsort(axis=1).argsort(axis=1)
        first, second = ((order < n).astype(float), ((order >= n) & (order < 2 * n)).astype(float))
        a, b = decision.choose(first), decision.choose(second)
        rows.append([n, _agreement(a, b)])
    return pd.DataFrame(rows, columns=["n", "pair"])


def _agreement(first: Chosen, second: Chosen) -> float:
    """The share of resamples in which two masks are equal; each argument has the shape (resamples, units)."""
    return float(np.mean((first == second).all(axis=1)))
