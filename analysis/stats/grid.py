"""The grid as the statistics see it: which columns make a stratum, a configuration, a draw and a cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Labels = NDArray[np.int64]

STRATUM = ["model", "k"]  # what is compared lies within one model and one number of removed blocks
CONFIGURATION = [
    "objective",
    "calibration",
    "samples",
    "length",
]  # a calibration, up to the draw of its samples
DRAW = ["calibration", "samples", "length", "draw"]  # the very samples; several objectives may share them
SETTING = [*CONFIGURATION, "draw"]  # everything that is calibration and not search

# What differs between two masks of a comparison; the rest of the cell is equal. Objectives need different
# kinds of data (texts, items), so "objective" lets the data go with it.
COMPARISONS = {
    "algorithms": ["algo"],
    "draws": ["draw"],
    "calibration data": ["calibration", "samples", "length"],
    "objectives": ["objective", "calibration", "samples", "length"],
    "ratios": ["k"],
}
CELL = [*STRATUM, *SETTING, "algo"]


def labels(frame: pd.DataFrame, columns: Sequence[str]) -> Labels:
    """One number for each distinct combination of values; a missing value (items have no length) is one too."""
    if not columns:
        return np.zeros(len(frame), dtype=np.int64)
    return frame.groupby(list(columns), dropna=False, sort=True).ngroup().to_numpy().astype(np.int64)


def indicator(groups: Labels) -> NDArray[np.float64]:
    """(n, levels): a column of ones and zeros for each level."""
    levels, inverse = np.unique(groups, return_inverse=True)
    return np.eye(len(levels))[inverse]
