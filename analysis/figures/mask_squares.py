"""The squares of figure 1: which units each search removed, as shades of one colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from numpy.typing import NDArray

from ..stats.removal import column

BACK, CLOSED = "#F2F2F2", "#FBFBFB"  # units that stay, and units that cannot be removed


def squares(axes: Axes, finished: pd.DataFrame, searches: Sequence[str], colour: str) -> None:
    """Draw one line for each search. The shade of a unit is the share of the search's cells that remove it."""
    shades = LinearSegmentedColormap.from_list("removed", [BACK, colour])
    if has_sublayers(finished):
        _halves(axes, finished, searches, shades.with_extremes(bad=CLOSED))
    else:
        shares = _shares(finished, searches, int(finished["n_blocks"].iloc[0]))
        axes.pcolormesh(shares, cmap=shades, vmin=0, vmax=1, edgecolors="white", linewidth=0.8)


def has_sublayers(cells: pd.DataFrame) -> bool:
    """Whether the masks of a panel are over sub-layers."""
    return bool({*column(cells, "unit", "block")} & {"sublayer", "attention", "mlp"})


def _shares(finished: pd.DataFrame, searches: Sequence[str], n_units: int) -> NDArray[np.float64]:
    """For each search and unit (searches, units), the share of its cells that remove the unit; NaN without a cell."""
    shares = np.full((len(searches), n_units), np.nan)
    for row, algo in zip(shares, searches, strict=True):
        dropped = finished.loc[finished["algo"] == algo, "dropped"]
        if len(dropped):
            row[:] = np.mean([[unit in mask for unit in range(n_units)] for mask in dropped], axis=0)
    return shares


def _halves(axes: Axes, finished: pd.DataFrame, searches: Sequence[str], shades: Colormap) -> None:
    """Draw each search as two rows of squares that touch: attention above, MLPs below."""
    n_blocks = int(finished["n_blocks"].iloc[0])
    shares = _shares(finished, searches, 2 * n_blocks)
    kinds = {"attention": [0], "mlp": [1]}.get(finished["unit"].iloc[0], [0, 1])
    columns = np.arange(n_blocks + 1)
    for line, row in enumerate(shares):
        edges = line + np.array([0.08, 0.5, 0.92])
        halves = np.full((2, n_blocks), np.nan)  # units 2i and 2i + 1 are attention and MLP of block i
        halves[kinds] = row.reshape(n_blocks, 2).T[kinds]
        squares = np.ma.masked_invalid(halves)
        axes.pcolormesh(
            columns, edges, squares, cmap=shades, vmin=0, vmax=1, edgecolors="white", linewidth=0.6
        )
