"""Which columns of the frame define a stratum, a configuration, a draw and a cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Labels = NDArray[np.int64]

STRATUM = ["model", "k"]  # comparisons are within one model and one number of removed blocks
CONFIGURATION = [
    "objective",
    "calibration",
    "samples",
    "length",
]  # a calibration without the draw of its samples
DRAW = [
    "calibration",
    "samples",
    "length",
    "draw",
]  # identifies the samples, which several objectives can share
SETTING = [*CONFIGURATION, "draw"]  # a calibration with the draw of its samples; the search is not included

# For each comparison, the columns in which its two masks may differ. All other columns of CELL are equal. So
# objectives are compared on the same samples only: on others, masks would differ because of the samples, too.
# Draws of different data have nothing in common but their number, so each is compared with each.
COMPARISONS = {
    "algorithms": ["algo"],
    "draws": ["draw"],
    "calibration data": DRAW,
    "objectives": ["objective"],
    "ratios": ["k"],
    "seeds": ["seed"],  # of the search, on the same samples
}
CELL = [*STRATUM, *SETTING, "algo"]


def several_sizes(frame: pd.DataFrame) -> bool:
    """Whether draws of different sizes were taken from the same data. Such draws contain each other."""
    sizes = frame[["calibration", "samples", "length"]].drop_duplicates()
    return bool(sizes["calibration"].duplicated().any())


def labels(frame: pd.DataFrame, columns: Sequence[str]) -> Labels:
    """Integers (n,). Rows have the same integer if their values in `columns` are equal.

    Missing values, such as the length of items, are equal.
    """
    if not columns:
        return np.zeros(len(frame), dtype=np.int64)
    return frame.groupby(list(columns), dropna=False, sort=True).ngroup().to_numpy().astype(np.int64)


def indicator(groups: Labels) -> NDArray[np.float64]:
    """A matrix (n, levels) with a column of ones and zeros for each level."""
    levels, inverse = np.unique(groups, return_inverse=True)
    return np.eye(len(levels))[inverse]
