"""The picture of a mask among the files of its run."""

from __future__ import annotations

import math
from typing import Any

from pruning.core.mask import Mask, unit_noun

WIDTH = 12.0  # inches
DPI = 100  # pixels per inch, given when the picture is saved: the style of the figures changes the default
ROW = 40  # blocks in a row at most
REMOVED, KEPT = "#b2182b", "#e8eef4"


def mask_picture(mask: Mask, title: str) -> Any:
    """A matplotlib figure, 1200 pixels wide at `DPI`: all units with their names, the removed ones filled.

    Sub-layers are in two lines for each row of blocks: attention above, MLPs below.
    """
    from matplotlib.figure import Figure

    parts = mask.n_units // mask.n_blocks
    rows = math.ceil(mask.n_blocks / ROW)
    columns = math.ceil(mask.n_blocks / rows)
    boxes = 0.5 * rows * parts
    figure = Figure(figsize=(WIDTH, 0.85 + boxes))
    axes = figure.add_axes((0.01, 0.02, 0.98, boxes / (0.85 + boxes)))
    axes.set(xlim=(0, columns), ylim=(rows * parts, 0))
    axes.axis("off")
    for unit in range(mask.n_units):
        block, part = divmod(unit, parts)
        row, column = divmod(block, columns)
        name = str(block) if parts == 1 else f"{'am'[part]}{block}"
        _box(axes, column, row * parts + part, name, unit in mask.dropped, parts)
    figure.text(0.012, 0.98, title, fontsize=13, weight="bold", va="top")
    figure.text(0.012, 1 - 0.40 / (0.85 + boxes), _sentence(mask), fontsize=11, color=REMOVED, va="top")
    return figure


def _box(axes: Any, column: int, line: int, name: str, out: bool, parts: int) -> None:
    """Draw a unit. The two sub-layers of a block touch, and a gap divides rows of blocks."""
    from matplotlib.patches import Rectangle

    top, middle = (0.08, 0.5) if parts == 1 else (0.14, 0.56) if line % 2 == 0 else (0.02, 0.44)
    box = Rectangle((column + 0.04, line + top), 0.92, 0.84, facecolor=REMOVED if out else KEPT)
    axes.add_patch(box)
    colour, weight = ("white", "bold") if out else ("#33475b", "normal")
    size = 11 if parts == 1 else 9
    number = axes.text(column + 0.5, line + middle, name, color=colour, weight=weight, fontsize=size)
    number.set(ha="center", va="center")


def _sentence(mask: Mask) -> str:
    """What the mask removes, in words."""
    names = mask.names()
    if not names:
        units = unit_noun(mask.unit)
        return f"no {units} of {mask.n_units} is removed"
    return f"{mask} removed: {', '.join(names) if len(names) <= ROW else 'in red below'}"
