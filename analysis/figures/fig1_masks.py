"""Figure 1: which blocks each search removed. One panel for each model, objective and k.

python -m analysis.fig1_masks --results results --study demo

Source: figure 1 of arXiv 2604.24938. In addition, each row shows the held-out metrics of its masks. If a search has
several cells (from several draws or data sets), the shade of a block is the share of these cells that remove the
block. If sub-layers are removed, a block is two squares: its attention above and its MLP below.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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
from .mask_squares import has_sublayers, squares
from .style import DASH, GREY, empty, head, looks, number, ordered, save, wrapped

# These are, in inches: height of a line, height of a panel without its lines, width of a panel.
# Eight panels in two columns fill a page.
ROW, HEAD, WIDTH = 0.165, 0.5, 4.2
TALL = 1.45  # height of a line of sub-layers, in lines of blocks
LONGEST = 55  # characters of a heading in one line


def draw(frame: pd.DataFrame, title: str) -> Figure:
    """One row of panels per model and objective, one column per k of the model. A panel has one line per search."""
    known = frame.dropna(subset=["model", "objective", "k"])
    rows = list(dict.fromkeys(zip(known["model"], known["objective"], strict=True)))
    ks = {model: sorted(known.loc[known["model"] == model, "k"].unique()) for model, _ in rows}
    columns = max(len(values) for values in ks.values())
    most = int(known.groupby(["model", "objective", "k"])["algo"].nunique().max())
    apart = bool((known["model"] != known["model"].map(bare)).any())  # then rows have different heights
    heights = [_height(known, *row) for row in rows] if apart else [HEAD + ROW * most] * len(rows)
    figure = Figure(figsize=(0.3 + WIDTH * columns, 0.9 + sum(heights)), layout="constrained")
    head(figure, title, figure.get_figwidth())
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights if apart else None)
    colours = looks(list(dict.fromkeys(known["objective"])))
    metrics = list(measured(frame).values())
    for i, (model, objective) in enumerate(rows):
        for j in range(columns):
            if j >= len(ks[model]):
                grid[i, j].set_axis_off()
                continue
            k = ks[model][j]
            cells = known[(known["model"] == model) & (known["objective"] == objective) & (known["k"] == k)]
            _panel(grid[i, j], cells, metrics, colours[objective][0], _heading(cells.iloc[0]))
    foot = wrapped(_foot(done(frame), metrics), int(figure.get_figwidth() * 17), "; ")
    figure.supxlabel(foot, fontsize=7, color=GREY)
    return figure


def _height(known: pd.DataFrame, model: str, objective: str) -> float:
    """The height of a row of panels in inches."""
    cells = known[(known["model"] == model) & (known["objective"] == objective)]
    lines = int(cells.groupby("k")["algo"].nunique().max())
    return (
        HEAD
        + 0.13 * _heading(cells.iloc[0]).count("\n")
        + ROW * lines * (TALL if has_sublayers(cells) else 1)
    )


def _heading(row: pd.Series[Any]) -> str:
    """Model, objective and what is removed; in two lines if a panel is too narrow for one."""
    first, second = f"{bare(row['model'])} · {row['objective']}", removed(row)
    apart = bare(row["model"]) != row["model"] and len(first + second) > LONGEST
    return f"{first}{chr(10) if apart else ' · '}{second}"


def _panel(axes: Axes, cells: pd.DataFrame, metrics: Sequence[Metric], colour: str, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=8)
    searches = ordered(cells["algo"])
    finished = done(cells)
    if finished.empty:
        empty(axes, f"none of {len(cells)} cells is finished")
        return
    n_blocks = int(finished["n_blocks"].iloc[0])
    for line, algo in enumerate(searches):
        _line(axes, line, n_blocks, finished[finished["algo"] == algo], metrics)
    squares(axes, finished, searches, colour)
    axes.set_ylim(len(searches), 0)
    axes.set_xlabel("block", fontsize=7, labelpad=1)
    numbered = range(0, n_blocks, 2 if n_blocks <= 40 else 4)
    axes.set_xticks(np.array(numbered) + 0.5, [str(b) for b in numbered], fontsize=6.5)
    axes.set_yticks(np.arange(len(searches)) + 0.5, [_label(cells, algo) for algo in searches], fontsize=7)
    axes.tick_params(length=0, pad=2)
    for side in axes.spines.values():
        side.set_visible(False)


def _line(axes: Axes, line: int, n_blocks: int, cells: pd.DataFrame, metrics: Sequence[Metric]) -> None:
    """Write the metrics of a search's masks beside its line."""
    text = _cost(cells, metrics) if len(cells) else "missing"
    axes.text(n_blocks + 0.3, line + 0.5, text, va="center", fontsize=6.5, color="0.25")


def _label(cells: pd.DataFrame, algo: str) -> str:
    """The name of a search. If it has several cells, their number follows in brackets.

    If some cells are unfinished, the brackets have `finished/all` instead.
    """
    searched = cells[cells["algo"] == algo]
    finished = int((searched["status"] == "done").sum())
    if finished < len(searched):
        return f"{algo} ({finished}/{len(searched)})"
    return algo if finished == 1 else f"{algo} ({finished})"


def _cost(cells: pd.DataFrame, metrics: Sequence[Metric], which: str = "pruned") -> str:
    """The means of the metrics over cells, as text. The mean of perplexities is geometric."""
    words = []
    for metric in metrics:
        values = metric.of(cells, which).dropna()
        if values.empty:
            words.append(f"{metric.kind} {DASH}")
        elif metric.kind == "ppl":
            value = float(gmean(values))
            words.append(f"ppl {value:.1f}" if value < 1000 else f"ppl {number(value)}")
        else:
            words.append(f"acc {values.mean() / 100:.2f}")
    return "  ".join(words)


def _foot(finished: pd.DataFrame, metrics: Sequence[Metric]) -> str:
    """How to read the figure, and the metrics of the unpruned models."""
    whole = "; ".join(
        f"{model} {_cost(cells, metrics, 'dense')}"
        for model, cells in groups(finished.assign(model=finished["model"].map(bare)), "model")
    )
    split = "two squares of a block: attention above, MLP below; " if has_sublayers(finished) else ""
    several = finished.groupby(["model", "objective", "k", "algo"]).size().max() > 1
    shade = "shade: share of the cells (draws, data) that remove a block; " if several else ""
    shade = split + shade
    if not metrics:
        return shade.removesuffix("; ")
    beside = " and ".join(metric.label for metric in metrics)
    geometric = several and any(metric.kind == "ppl" for metric in metrics)
    means = "perplexities: geometric mean over cells; " if geometric else ""
    return f"{shade}beside each mask: {beside}; {means}nothing removed: {whole}"


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
