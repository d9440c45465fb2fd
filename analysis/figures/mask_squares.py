"""The squares of figure 1: which units each search removed in each of its cells.

A search is a band of thin lines, one for each of its cells. If there are more than LINES, the band is one line, and
its shade is the share of the cells that remove the unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from numpy.typing import NDArray

from ..stats.grid import SETTING
from ..stats.removal import column

BACK, CLOSED = "#EFEFEF", "#FBFBFB"  # units that stay, and units that cannot be removed
LINES = 12  # thinner lines could not be seen
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the key
BAND = 0.08  # white above and below each band, in lines of the panel


def squares(axes: Axes, finished: pd.DataFrame, bands: Mapping[str, Sequence[str]], colour: str) -> None:
    """Draw one band for each label of `bands`, from the cells of the searches that it stands for."""
    n_blocks, split = int(finished["n_blocks"].iloc[0]), has_sublayers(finished)
    shades = _shades(colour).with_extremes(bad=CLOSED)
    for line, searches in enumerate(bands.values()):
        cells = finished[finished["algo"] == searches[0]]  # searches of one band found the same masks
        if cells.empty:
            continue
        rows = _rows(cells, n_blocks * (2 if split else 1))
        drawn = _halves(rows, finished["unit"].iloc[0], n_blocks) if split else rows
        edges = line + np.linspace(BAND, 1 - BAND, len(drawn) + 1)
        data = np.ma.masked_invalid(drawn)
        axes.pcolormesh(np.arange(n_blocks + 1), edges, data, cmap=shades, vmin=0, vmax=1)
        if split:
            axes.axhline(line + 0.5, color="white", lw=0.8)
    axes.vlines(np.arange(n_blocks + 1), 0, len(bands), color="white", lw=0.9)


def has_sublayers(cells: pd.DataFrame) -> bool:
    """Whether the masks of a panel are over sub-layers."""
    return bool({*column(cells, "unit", "block")} & {"sublayer", "attention", "mlp"})


def shaded(cells: int) -> bool:
    """Whether the bands of a search with so many cells are shades and not lines."""
    return cells > LINES


def key(shades: bool, colours: Sequence[str]) -> dict[str, list[str]]:
    """The names of the key, of shares if there are shades, else of removed and kept; and how each looks.

    `colours` are those of the objectives. A name has one shade for each of them, or one for all if they are equal.
    """
    named = {f"{100 * share:.0f} %": share for share in SHARES} if shades else {"removed": 1.0, "kept": 0.0}
    return {
        name: list(dict.fromkeys(to_hex(_shades(colour)(share)) for colour in colours))
        for name, share in named.items()
    }


def _shades(colour: str) -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list("removed", [BACK, colour])


def _rows(cells: pd.DataFrame, n_units: int) -> NDArray[np.float64]:
    """The lines of a search (lines, units): 1 if a cell removes the unit, or the share of the cells that do."""
    in_order = cells.sort_values([c for c in [*SETTING, "seed"] if c in cells], kind="stable")
    removed = np.array([np.isin(np.arange(n_units), mask) for mask in in_order["dropped"]], dtype=float)
    return removed.mean(axis=0, keepdims=True) if shaded(len(removed)) else removed


def _halves(rows: NDArray[np.float64], unit: str, n_blocks: int) -> NDArray[np.float64]:
    """The lines of attention above those of MLPs (2 lines, blocks); NaN where a kind cannot be removed."""
    by_kind = rows.reshape(len(rows), n_blocks, 2)  # units 2i and 2i + 1 are attention and MLP of block i
    open_kinds = {"attention": [0], "mlp": [1]}.get(unit, [0, 1])
    kinds = [by_kind[:, :, kind] if kind in open_kinds else by_kind[:, :, kind] * np.nan for kind in (0, 1)]
    return np.concatenate(kinds)
