"""Means over tasks with intervals: items are resampled within each task, paired over what is compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import numpy as np

from pruning.routing.scores import Floats

RESAMPLES = 4000
LEVEL = 0.95


class Interval(TypedDict):
    """A mean over tasks, and its 95 percent interval."""

    value: float
    low: float
    high: float


class Difference(TypedDict):
    """A mean difference over the items of one task, and its standard error (None for one item)."""

    value: float
    error: float | None


def interval(values: Mapping[str, Floats], seed: int = 0) -> Interval:
    """The mean over tasks of the mean over items; `values` has one number per item for each task.

    The interval is a percentile bootstrap over items within tasks. If `values` are differences of two policies on
    the same items, it is the paired interval.
    """
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled(rng, of_task) for of_task in values.values()], axis=0)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": mean_over_tasks(values), "low": float(low), "high": float(high)}


def mean_over_tasks(values: Mapping[str, Floats]) -> float:
    """The mean over tasks of the mean over items: each task counts the same."""
    return float(np.mean([of_task.mean() for of_task in values.values()]))


def difference(first: Floats, second: Floats) -> Difference:
    """The paired difference of two policies on the same items of one task."""
    gaps = first - second
    error = float(gaps.std(ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else None
    return {"value": float(gaps.mean()), "error": error}


def _resampled(rng: np.random.Generator, values: Floats) -> Floats:
    """The means of resamples (RESAMPLES,) of the items of one task."""
    n = len(values)
    return np.asarray(values[rng.integers(0, n, (RESAMPLES, n))].mean(axis=1))
