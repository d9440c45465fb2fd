"""Figure 1: which blocks each search removed (figure 1 of arXiv 2604.24938), with the held-out metrics of its masks.

If sub-layers are removed, each block is two squares: attention above, MLP below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from scipy.stats import gmean

from ..data.load import Metric, done, measured
from ..stats.grid import SETTING, column, groups, labels, masks, strata_of
from . import style
from .cli import Drawing, StudyFigure
from .style import EVERY, LINE, Rows, counted, rows_of

COLUMNS = {"ppl": ("ppl", 30), "acc": ("acc, %", 58)}  # headings, and right edges in points from the squares


def draw(frame: pd.DataFrame) -> Figure:
    """Draw a panel for each model and k, in as few columns as the height of a page allows."""
    known = frame.dropna(subset=["model", "objective", "k"])
    strata, shown = strata_of(known), merged(known)
    line = LINE * (1.5 if has_sublayers(known) else 1)
    for columns in (1, 2, 3, 4):
        lines = _lines(shown, strata, columns)
        heights = [rows.height * line + 0.45 for rows in lines]
        if sum(heights) < style.TALL and (columns > 1 or len(strata) == 1):
            break
    metrics, title = list(measured(frame).values()), "Blocks that each search removed, by objective"
    figure, grid = style.page(
        len(lines), columns, float(np.mean(heights)), title, _foot(known), height_ratios=heights
    )
    panels = [(axes, rows) for line, rows in zip(grid, lines, strict=True) for axes in line]
    for axes, _ in panels[len(strata) :]:
        axes.set_axis_off()
    for i, ((axes, rows), (model, k)) in enumerate(zip(panels, strata, strict=False)):
        _panel(axes, rows_of(shown, model=model, k=k), rows, metrics[: 2 if columns < 3 else 1])
        rows.name(axes, i % columns == 0)
        axes.set_title(style.stratum(model, k, columns > 3))
    return figure


def _lines(cells: pd.DataFrame, strata: Sequence[tuple[str, int]], columns: int) -> list[Rows]:
    """For each line of panels, the rows that each panel gets: all objectives and searches of the line's strata."""
    return [
        Rows.of_cells(pd.concat([rows_of(cells, model=m, k=k) for m, k in strata[i : i + columns]]))
        for i in range(0, len(strata), columns)
    ]


def _panel(axes: Axes, cells: pd.DataFrame, rows: Rows, metrics: Sequence[Metric]) -> None:
    finished = done(cells)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0, pad=1)
    if finished.empty:
        axes.set_xticks([])
        axes.text(0.5, rows.height / 2, f"none of {counted(len(cells), 'cell')} is finished", ha="center")
        return
    n_blocks = int(finished["n_blocks"].iloc[0])

    def write(y: float, words: str, right: float, **look: Any) -> None:
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        text = axes.annotate(words, (1, y), (right, 0), ha="right", va="center_baseline", **place, **look)
        text.set_in_layout(y < 1)  # layout is slow, so only headings take part in it

    for metric in metrics:
        heading, right = COLUMNS[metric.kind]
        write(-1, heading, right, color=style.GREY, annotation_clip=False)
        write(0, _mean(finished, metric, "dense"), right, color=style.GREY)
    write(0, "unpruned" * bool(metrics), -2, color=style.GREY)
    of_search = dict(groups(cells, ["objective", "algo"]))
    for key, y in rows.lines.items():
        own = of_search.get(key, cells[:0])
        of_line = done(own)
        if len(of_line):
            _squares(axes, of_line, y, style.colour(key[0]))
            for metric in metrics:
                write(y, _mean(of_line, metric), COLUMNS[metric.kind][1])
        if len(of_line) < len(own) or own.empty:
            words = f"{len(of_line)} of {counted(len(own), 'cell')} finished" if len(own) else "not run"
            axes.text(0.2, y, words, va="center_baseline", color=style.GREY)
    numbered = range(0, n_blocks, 4 if n_blocks <= 40 else 8)
    axes.set(xlim=(0, n_blocks))
    axes.set_xticks(np.array(numbered) + 0.5, [str(b) for b in numbered])


def _mean(cells: pd.DataFrame, metric: Metric, which: str = "pruned") -> str:
    """The mean of a metric over cells, as text: geometric for perplexities, in percent for accuracies."""
    values = metric.of(cells, which).dropna()
    if values.empty:
        return style.DASH
    return style.number(float(gmean(values))) if metric.kind == "ppl" else f"{values.mean():.0f}"


def _foot(cells: pd.DataFrame) -> str:
    """The note on how to read the figure."""
    most = int(cells.groupby(["model", "k", "objective", "algo"]).size().max())
    parts = ["across: blocks, from 0"]
    parts += ["a block is two squares: attention above, MLP below"] if has_sublayers(cells) else []
    parts += [f"the darker, the more of {counted(most, 'cell')} remove a block"] if most > 1 else []
    metrics = measured(cells).values()
    parts += [f"right: {' and '.join(m.label for m in metrics)} held out"] if metrics else []
    parts += ["perplexities: geometric mean over draws"] if most > 1 and metrics else []
    return "; ".join(parts)


def merged(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells. If three or more searches of an objective all found the same masks, these searches get one name."""
    parts = []
    for _, own in groups(cells, "objective"):
        alike = (own["status"] == "done").all() and own["algo"].nunique() > 2
        for _, panel in groups(own, ["model", "k"]) if alike else ():
            place = pd.Series(labels(panel, [*SETTING, "seed"]), panel.index)
            found = {
                frozenset(zip(place[part.index], part["dropped"], strict=True))
                for _, part in groups(panel, "algo")
            }
            alike &= len(found) == 1
        parts.append(own.assign(algo=EVERY) if alike else own)
    return pd.concat(parts)


def _squares(axes: Axes, cells: pd.DataFrame, y: float, hue: str) -> None:
    """Draw a line of squares, one for each unit, shaded by the share of the cells that remove it."""
    n_blocks, rows = int(cells["n_blocks"].iloc[0]), 2 if has_sublayers(cells) else 1
    units = np.arange(n_blocks * rows)
    shares = np.mean([np.isin(units, mask) for mask in cells["dropped"]], axis=0)
    edges = np.linspace(y - 0.45, y + 0.45, rows + 1)
    shades = LinearSegmentedColormap.from_list("removed", ["#EFEFEF", hue])
    look: dict[str, Any] = {"cmap": shades, "vmin": 0, "vmax": 1, "edgecolors": "white", "linewidth": 0.4}
    # Units 2i and 2i + 1 are the attention and the MLP of block i.
    axes.pcolormesh(np.arange(n_blocks + 1), edges, shares.reshape(-1, rows).T, **look)


def has_sublayers(cells: pd.DataFrame) -> bool:
    """Whether the masks of a panel are over sub-layers."""
    return bool({*column(cells, "unit", "block")} & {"sublayer", "attention", "mlp"})


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """The content of the CSV: one row per cell, finished or not, with mask and metrics."""
    metrics = [name for name in frame if str(name).startswith(("dense/", "pruned/"))]
    where = ["model", "objective", "calibration", "samples", "length", "algo", "k", "seed"]
    finished = rows_of(frame, status="done")
    names = pd.Series([" ".join(mask.names()) for mask in masks(finished)], finished.index, dtype=object)
    drawn = frame[["cell", "status", *where, "dropped", *metrics]]
    return drawn.assign(dropped=names.reindex(frame.index, fill_value=""))


FIGURE = StudyFigure(
    name="fig1_masks",
    heading="Which blocks each search removed",
    build=lambda study, _: Drawing(draw(study.frame), table(study.frame)),
    section="masks",
    caption="Each line is a search and each column a block. The shade is the share of calibration draws that remove "
    "the block. Beside each line are held-out perplexity and accuracy.",
)
