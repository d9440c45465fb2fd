"""The picture of a mask among the files of its run."""

from __future__ import annotations

import math
from typing import Any

from pruning.core.mask import Mask

WIDTH = 12.0  # inches
DPI = 100  # pixels per inch, given when the picture is saved: the style of the figures changes the default
ROW = 40  # blocks in a row at most
REMOVED, KEPT = "#b2182b", "#e8eef4"


def mask_picture(mask: Mask, title: str) -> Any:
    """A matplotlib figure, 1200 pixels wide at `DPI`: all blocks with their numbers, the removed ones filled."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rows = math.ceil(mask.n_blocks / ROW)
    columns = math.ceil(mask.n_blocks / rows)
    figure = Figure(figsize=(WIDTH, 0.85 + 0.5 * rows))
    axes = figure.add_axes((0.01, 0.02, 0.98, 0.5 * rows / (0.85 + 0.5 * rows)))
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.axis("off")
    for block in range(mask.n_blocks):
        row, column = divmod(block, columns)
        out = block in mask.dropped
        box = Rectangle((column + 0.04, row + 0.08), 0.92, 0.84, facecolor=REMOVED if out else KEPT)
        axes.add_patch(box)
        colour, weight = ("white", "bold") if out else ("#33475b", "normal")
        number = axes.text(column + 0.5, row + 0.5, str(block), color=colour, weight=weight, fontsize=11)
        number.set(ha="center", va="center")
    figure.text(0.012, 0.98, title, fontsize=13, weight="bold", va="top")
    figure.text(0.012, 1 - 0.40 / (0.85 + 0.5 * rows), _sentence(mask), fontsize=11, color=REMOVED, va="top")
    return figure


def _sentence(mask: Mask) -> str:
    """What the mask removes, in words."""
    blocks = sorted(mask.dropped)
    if not blocks:
        return f"no block of {mask.n_blocks} is removed"
    listed = ", ".join(map(str, blocks)) if len(blocks) <= ROW else "in red below"
    return f"{len(blocks)} of {mask.n_blocks} blocks removed: {listed}"
