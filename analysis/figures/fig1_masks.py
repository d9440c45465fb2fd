"""Figure 1: which blocks each search removed. One panel for each model, objective and k.

python -m analysis fig1 --results results --study demo

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
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import gmean

from ..data.load import Metric, done, measured
from ..data.study import AskedStudy
from ..stats.grid import DRAW, SETTING, bare, column, groups, labels, masks, removed
from .cli import arguments, run
from .style import (
    DASH,
    GREY,
    PAGE,
    SMALL,
    TITLE,
    empty,
    head,
    legend,
    looks,
    number,
    ordered,
    save,
    shade_key,
)

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


# The bands of figure 1: their labels, the searches that each stands for, and how many draws it shows, in words.

MERGED = 3  # the fewest searches that share a band


def bands(cells: pd.DataFrame) -> dict[str, list[str]]:
    """The searches of a panel by the label of their band, in order.

    If all searches found the same masks in the same cells, they share one band: `all 7 searches`. A search that is
    not finished has `5 of 6` after its name.
    """
    searches = ordered(cells["algo"])
    if len(searches) >= MERGED and (cells["status"] == "done").all() and _equal(cells):
        return {f"all {len(searches)} searches": searches}
    return {_label(cells[cells["algo"] == algo], algo): [algo] for algo in searches}


def _equal(cells: pd.DataFrame) -> bool:
    """Whether every search found the same masks in the same cells."""
    setting = labels(cells, [*SETTING, "seed"])
    found = cells.assign(setting=setting).sort_values(["setting"], kind="stable")
    return (
        len({tuple(zip(part["setting"], part["dropped"], strict=True)) for _, part in found.groupby("algo")})
        == 1
    )


def _label(cells: pd.DataFrame, algo: str) -> str:
    finished = int((cells["status"] == "done").sum())
    return algo if finished == len(cells) else f"{algo} ({finished} of {len(cells)})"


def most_cells(cells: pd.DataFrame) -> int:
    """The largest number of cells that a search has in one panel."""
    return int(cells.groupby(["model", "objective", "k", "algo"]).size().max())


def counted(cells: pd.DataFrame) -> str:
    """How many draws a search of a panel has: `6 draws`, or `12 cells of 6 draws` if it has more cells than draws."""
    finished = done(cells)
    most = most_cells(cells)
    draws = (
        max(len(set(labels(part, DRAW))) for _, part in finished.groupby("algo")) if len(finished) else most
    )
    complete = (finished.groupby("algo").size() == most).any() if len(finished) else False
    return of_draws(most if complete else draws, draws)


def of_draws(cells: int, draws: int) -> str:
    """How many draws cells have: `6 draws`, or `12 cells of 6 draws` if there are more cells than draws."""
    return f"{cells} cells of " * (cells > draws) + f"{draws} draw{'s' * (draws != 1)}"


# The squares of figure 1: which units each search removed in each of its cells.
#
# A search is a band of thin lines, one for each of its cells. If there are more than LINES, the band is one line,
# and its shade is the share of the cells that remove the unit.

BACK, CLOSED = "#EFEFEF", "#FBFBFB"  # units that stay, and units that cannot be removed
LINES = 12  # thinner lines could not be seen
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the key
MASK_SQUARES_BAND = 0.08  # white above and below each band, in lines of the panel


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
        edges = line + np.linspace(MASK_SQUARES_BAND, 1 - MASK_SQUARES_BAND, len(drawn) + 1)
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
