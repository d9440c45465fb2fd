"""Figure 1: which blocks each search removed. One panel for each model, objective and k.

python -m analysis.fig1_masks --results results --study demo

Source: figure 1 of arXiv 2604.24938. In addition, each row shows the held-out metrics of its masks. If a search has
several cells (from several draws or data sets), each is a thin line; if it has very many, the shade of a block is the
share of the cells that remove it. If all searches found the same masks, they share one row. If sub-layers are
removed, a block is two squares: its attention above and its MLP below.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gmean

from ..data.load import done
from ..data.metrics import Metric, measured
from ..data.study import AskedStudy
from ..stats.frames import groups
from ..stats.removal import bare, masks, removed
from .cli import arguments, run
from .legends import legend, shade_key
from .mask_bands import bands, counted, most_cells
from .mask_squares import has_sublayers, key, shaded, squares
from .style import DASH, GREY, PAGE, SMALL, TITLE, empty, head, looks, number, save

# These are, in inches: height of a line, of a line that shows several cells, of a panel without its lines.
ROW, BAND, HEAD = 0.17, 0.21, 0.58
WIDTH = PAGE / 2  # of a panel: two columns fill a page
TALL = 1.45  # height of a line of sub-layers, in lines of blocks
LONGEST = 70  # characters of a heading in one line, with the labels of the searches to the left of it
RIGHT = {"ppl": 36, "acc": 62}  # right edges of the columns of metrics, in points from the squares


def draw(frame: pd.DataFrame, title: str) -> Figure:
    """One row of panels per model and objective, one column per k of the model. A panel has one line per search."""
    known = frame.dropna(subset=["model", "objective", "k"])
    rows = list(dict.fromkeys(zip(known["model"], known["objective"], strict=True)))
    ks = {model: sorted(known.loc[known["model"] == model, "k"].unique()) for model, _ in rows}
    columns = max(len(values) for values in ks.values())
    labels = max(
        len(line) for _, panel in groups(known, ["model", "objective", "k"]) for line in bands(panel)
    )
    heights = [_height(known[(known["model"] == m) & (known["objective"] == o)], labels) for m, o in rows]
    figure = Figure(figsize=(WIDTH * columns, 0.45 + sum(heights)), layout="constrained")
    head(figure, title, figure.get_figwidth())
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    colours = looks(sorted({*known["objective"]}))  # as in figure 6
    metrics = list(measured(frame).values())
    for i, (model, objective) in enumerate(rows):
        for j in range(columns):
            if j >= len(ks[model]):
                grid[i, j].set_axis_off()
                continue
            k = ks[model][j]
            cells = known[(known["model"] == model) & (known["objective"] == objective) & (known["k"] == k)]
            if cells.empty:  # another objective of the model has cells of this size
                grid[i, j].set_axis_off()
            else:
                _panel(grid[i, j], cells, metrics, colours[objective][0], labels)
    grid[-1, 0].set_xlabel("block", fontsize=SMALL, labelpad=1)
    drawn = [colour for colour, _ in colours.values()]
    keys = [shade_key(name, *shades) for name, shades in key(shaded(most_cells(known)), drawn).items()]
    legend(figure, {}, _foot(done(frame), metrics), keys)
    return figure


def _height(cells: pd.DataFrame, labels: int) -> float:
    """The height of a row of panels in inches."""
    lines = max(len(bands(panel)) for _, panel in groups(cells, "k"))
    row = (BAND if most_cells(cells) > 1 else ROW) * (TALL if has_sublayers(cells) else 1)
    return HEAD + 0.13 * _heading(cells, labels).count("\n") + row * lines


def _heading(cells: pd.DataFrame, labels: int) -> str:
    """Model, objective, what is removed, and how many draws; in two lines if a panel is too narrow for one.

    All panels begin at the end of the longest label of a line, which has `labels` characters.
    """
    row = cells.iloc[0]
    first, second = f"{bare(row['model'])} · {row['objective']}", f"{removed(row)} · {counted(cells)}"
    return f"{first}{chr(10) if len(first + second) + labels > LONGEST else ' · '}{second}"


def _panel(axes: Axes, cells: pd.DataFrame, metrics: Sequence[Metric], colour: str, labels: int) -> None:
    axes.set_title(_heading(cells, labels), loc="left", fontsize=TITLE - 0.5, pad=13)
    finished = done(cells)
    if finished.empty:
        empty(axes, f"none of {len(cells)} cells is finished")
        return
    n_blocks, shown = int(finished["n_blocks"].iloc[0]), bands(cells)
    _metrics(axes, finished, shown, metrics)
    squares(axes, finished, shown, colour)
    axes.set(xlim=(0, n_blocks), ylim=(len(shown), 0))
    numbered = range(0, n_blocks, 2 if n_blocks <= 40 else 4)
    axes.set_xticks(np.array(numbered) + 0.5, [str(b) for b in numbered])
    axes.set_yticks(np.arange(len(shown)) + 0.5, list(shown))
    axes.tick_params(length=0, pad=2)
    for side in axes.spines.values():
        side.set_visible(False)


def _metrics(
    axes: Axes, finished: pd.DataFrame, shown: Mapping[str, Sequence[str]], metrics: Sequence[Metric]
) -> None:
    """Write the metrics of each search's masks beside its line, in a column for each metric."""
    place: dict[str, Any] = {
        "textcoords": "offset points",
        "ha": "right",
        "fontsize": SMALL,
        "annotation_clip": False,
    }
    for metric in metrics:
        right = RIGHT[metric.kind]
        heading = {"ppl": "ppl", "acc": "acc, %"}[metric.kind]
        axes.annotate(heading, (1, 1), (right, 3), xycoords="axes fraction", color=GREY, **place)
        for line, searches in enumerate(shown.values()):
            cells = finished[finished["algo"] == searches[0]]
            text = _mean(cells, metric) if len(cells) else DASH
            at = (1, line + 0.5)
            axes.annotate(text, at, (right, 0), xycoords=("axes fraction", "data"), va="center", **place)


def _mean(cells: pd.DataFrame, metric: Metric, which: str = "pruned") -> str:
    """The mean of a metric over cells, as text. The mean of perplexities is geometric; accuracies are in percent."""
    values = metric.of(cells, which).dropna()
    if values.empty:
        return DASH
    return number(float(gmean(values))) if metric.kind == "ppl" else f"{values.mean():.0f}"


def _foot(finished: pd.DataFrame, metrics: Sequence[Metric]) -> str:
    """How to read the figure, and the metrics of the unpruned models."""
    parts = ["a block is two squares: attention above, MLP below"] if has_sublayers(finished) else []
    parts += ["each objective has its own colour"] if finished["objective"].nunique() > 1 else []
    if (several := most_cells(finished)) > 1:
        one = "shade: share of the draws that remove a block"
        many = "each thin line is one cell, in the order of data, draws and seeds"
        parts.append(one if shaded(several) else many)
    if metrics:
        parts.append("right of the squares: " + " and ".join(metric.label for metric in metrics))
    if several > 1 and any(metric.kind == "ppl" for metric in metrics):
        parts.append("perplexities: geometric mean over draws")
    for model, cells in groups(finished.assign(model=finished["model"].map(bare)), "model"):
        dense = [f"{m.kind} {_mean(cells, m, 'dense')}{' %' * (m.kind == 'acc')}" for m in metrics]
        parts += [f"nothing removed from {model}: {', '.join(dense)}"] if dense else []
    return "; ".join(parts)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """The content of the CSV: one row per cell (also missing cells), with mask and metrics."""
    metrics = [name for name in frame if str(name).startswith(("dense/", "pruned/"))]
    where = ["model", "objective", "calibration", "samples", "length", "algo", "k", "seed"]
    drawn = frame[["cell", "status", *where, "dropped", *metrics]]
    finished = frame[frame["status"] == "done"]
    names = pd.Series([" ".join(mask.names()) for mask in masks(finished)], finished.index, dtype=object)
    return drawn.assign(dropped=names.reindex(frame.index, fill_value=""))


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    return save(draw(frame, title), table(frame), given.out, "fig1_masks")


def main() -> None:
    """Draw the figure for a results folder."""
    run("fig1_masks", arguments("Which blocks each search removed."), _write)
