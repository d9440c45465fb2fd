"""Spearman's correlation of two rankings."""

from __future__ import annotations

import warnings
from typing import Any

from numpy.typing import NDArray
from scipy import stats


def spearman(x: NDArray[Any], y: NDArray[Any]) -> Any:
    """Pearson's correlation of ranks along the last axis. Tied ranks are averaged; NaN if `x` or `y` is constant."""
    ranks = (stats.rankdata(values, axis=-1) for values in (x, y))
    with warnings.catch_warnings(action="ignore", category=stats.ConstantInputWarning):
        return stats.pearsonr(*ranks, axis=-1).statistic
