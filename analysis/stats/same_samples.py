"""Compare two masks by their losses on the same samples: held-out windows, or calibration samples.

The standard error of the difference is much smaller than that of either loss, because a sample that is hard for one
mask is hard for the other. Losses on calibration samples are stored in journals, losses on windows with measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from pruning.core.records import DoneResult, kept_terms, terms_beside

from .crossed import Trace, complete_scores
from .grid import budgets

WindowPairsLosses = NDArray[np.float64]
Removed = tuple[int, ...]


@dataclass(frozen=True)
class PairedDifference:
    """First loss minus second, averaged over `windows` windows, with 95 % interval and error, in nats per token."""

    mean: float
    low: float
    high: float
    windows: int
    error: float


def paired(first: WindowPairsLosses, second: WindowPairsLosses) -> PairedDifference:
    """The mean difference of losses of shape (windows,). Its error and Student interval are NaN for one window."""
    differences = np.asarray(first, float) - np.asarray(second, float)
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return PairedDifference(mean, float("nan"), float("nan"), n, float("nan"))
    error = float(differences.std(ddof=1) / np.sqrt(n))
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return PairedDifference(mean, mean - half, mean + half, n, error)


def sample_losses(
    problem: pd.DataFrame, traces: Mapping[str, Trace], masks: Set[Removed] | None = None
) -> dict[Removed, NDArray[np.float64]]:
    """The losses, of shape (samples,), of each complete mask that a cell of a problem has scored on all samples.

    If `masks` is given, only these are looked up. If several cells have scored a mask, its losses are
    averaged over them. The result is empty if samples cannot be paired, because a mask's loss is not the
    plain mean of its samples or because cells have different numbers of samples.
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


# What is stored next to a measurement's value: the loss of each window, or the answer to each item.


def window_losses(
    results: Path, result: DoneResult, metrics: Sequence[str], which: str = "pruned"
) -> WindowPairsLosses | None:
    """The losses of a cell's mask on the windows of all `metrics`, concatenated; None if some are not stored."""
    return joined([_losses(kept_terms(results, result, metric, which)) for metric in metrics])


def joined(parts: Sequence[WindowPairsLosses | None]) -> WindowPairsLosses | None:
    """The losses of several metrics, concatenated; None if those of a metric are missing."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known and len(known) == len(parts) else None


def losses_of(measured: Path) -> WindowPairsLosses | None:
    """The window losses stored next to a measurement file; None if they were not stored."""
    return _losses(terms_beside(measured))


def _losses(terms: Mapping[str, Any] | None) -> WindowPairsLosses | None:
    return np.array(terms["losses"], float) if terms and "losses" in terms else None
