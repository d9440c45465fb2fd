"""Spearman's correlation of two rankings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def spearman(x: NDArray[Any], y: NDArray[Any]) -> Any:
    """Pearson's correlation of ranks along the last axis. Tied ranks are averaged; NaN if `x` or `y` is constant."""
    a, b = (stats.rankdata(values, axis=-1) for values in (x, y))
    a, b = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (a, b))
    below = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=-1) / below
