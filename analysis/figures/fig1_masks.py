"""Figure 1: which blocks each search removed. One panel for each model, objective and k.

depth-pruning figure fig1 --results results --study demo

Source: figure 1 of arXiv 2604.24938. In addition, each row shows the held-out metrics of its masks. If a search has
several cells (from several draws or data sets), each is a thin line; if it has very many, the shade of a block is the
share of the cells that remove it. If all searches found the same masks, they share one row. If sub-layers are
removed, a block is two squares: its attention above and its MLP below.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
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
from . import style
from .cli import Drawing, StudyFigure
from .style import counted, rows_of

# Inches: height of a line, of a line that shows several cells, of a panel without its lines; width of a panel.
ROW, BAND, HEAD, WIDTH = 0.17, 0.21, 0.58, style.PAGE / 2
TALL = 1.45  # height of a line of sub-layers, in lines of blocks
LONGEST = 70  # characters of a heading in one line, with the labels of the searches to the left of it
COLUMNS = {"ppl": ("ppl", 36), "acc": ("acc, %", 62)}  # of metrics: right edges in points from the squares


def draw(frame: pd.DataFrame, title: str) -> Figure:
    """One row of panels per model and objective, one column per k of the model. A panel has one line per search."""
    known = frame.dropna(subset=["model", "objective", "k"])
    rows = list(dict.fromkeys(zip(known["model"], known["objective"], strict=True)))
    ks = {model: sorted(rows_of(known, model=model)["k"].unique()) for model, _ in rows}
    columns = max(len(values) for values in ks.values())
    every = [panel for _, panel in groups(known, ["model", "objective", "k"])]
    longest = max(len(label) for panel in every for label in bands(panel))
    heights = [_height(rows_of(known, model=m, objective=o), longest) for m, o in rows]
    figure = style.sheet(WIDTH * columns, 0.45 + sum(heights), title)
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    colours = {name: look[0] for name, look in style.looks(sorted({*known["objective"]})).items()}
    metrics = list(measured(frame).values())
    for line, (model, objective) in zip(grid, rows, strict=True):
        for axes, k in zip(line, [*ks[model], *[None] * (columns - len(ks[model]))], strict=True):
            cells = rows_of(known, model=model, objective=objective, k=k)
            if cells.empty:  # another model or objective has cells of this size
                axes.set_axis_off()
            else:
                _panel(axes, cells, metrics, colours[objective], longest)
    grid[-1, 0].set_xlabel("block", fontsize=style.SMALL, labelpad=1)
    shades = key(most_cells(known) > LINES, list(colours.values()))
    keys = [style.shade_key(name, *colours) for name, colours in shades.items()]
    style.legend(figure, {}, _foot(done(frame), metrics), keys)
    return figure


def _height(cells: pd.DataFrame, longest: int) -> float:
    """The height of a row of panels in inches."""
    lines = max(len(bands(panel)) for _, panel in groups(cells, "k"))
    row = (BAND if most_cells(cells) > 1 else ROW) * (TALL if has_sublayers(cells) else 1)
    return HEAD + 0.13 * _heading(cells, longest).count("\n") + row * lines


def _heading(cells: pd.DataFrame, longest: int) -> str:
    """Model, objective, what is removed, and how many draws; in two lines if a panel is too narrow for one.

    All panels begin at the end of the longest label of a line, which has `longest` characters.
    """
    row = cells.iloc[0]
    first, second = f"{bare(row['model'])} · {row['objective']}", f"{removed(row)} · {draws_of(cells)}"
    return f"{first}{chr(10) if len(first + second) + longest > LONGEST else ' · '}{second}"


def _panel(axes: Axes, cells: pd.DataFrame, metrics: Sequence[Metric], colour: str, longest: int) -> None:
    axes.set_title(_heading(cells, longest), loc="left", fontsize=style.TITLE - 0.5, pad=13)
    finished = done(cells)
    if finished.empty:
        style.empty(axes, f"none of {len(cells)} cells is finished")
        return
    n_blocks, shown = int(finished["n_blocks"].iloc[0]), bands(cells)
    text: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": style.SMALL}
    for metric in metrics:  # beside the lines, in a column for each metric
        heading, right = COLUMNS[metric.kind]
        axes.annotate(heading, (1, 1), (right, 3), xycoords="axes fraction", color=style.GREY, **text)
        for line, searches in enumerate(shown.values()):
            value, place = _mean(rows_of(finished, algo=searches[0]), metric), ("axes fraction", "data")
            axes.annotate(value, (1, line + 0.5), (right, 0), xycoords=place, va="center", **text)
    _squares(axes, finished, shown, colour)
    axes.set(xlim=(0, n_blocks), ylim=(len(shown), 0))
    numbered = range(0, n_blocks, 2 if n_blocks <= 40 else 4)
    axes.set_xticks(np.array(numbered) + 0.5, [str(b) for b in numbered])
    axes.set_yticks(np.arange(len(shown)) + 0.5, list(shown))
    style.hide_frame(axes)


def _mean(cells: pd.DataFrame, metric: Metric, which: str = "pruned") -> str:
    """The mean of a metric over cells, as text. The mean of perplexities is geometric; accuracies are in percent."""
    values = metric.of(cells, which).dropna()
    if values.empty:
        return style.DASH
    return style.number(float(gmean(values))) if metric.kind == "ppl" else f"{values.mean():.0f}"


def _foot(finished: pd.DataFrame, metrics: Sequence[Metric]) -> str:
    """How to read the figure, and the metrics of the unpruned models."""
    parts = ["a block is two squares: attention above, MLP below"] if has_sublayers(finished) else []
    parts += ["each objective has its own colour"] if finished["objective"].nunique() > 1 else []
    if (several := most_cells(finished)) > 1:
        one = "shade: share of the draws that remove a block"
        many = "each thin line is one cell, in the order of data, draws and seeds"
        parts.append(one if several > LINES else many)
    if metrics:
        parts.append("right of the squares: " + " and ".join(metric.label for metric in metrics))
    if several > 1 and any(metric.kind == "ppl" for metric in metrics):
        parts.append("perplexities: geometric mean over draws")
    for model, cells in groups(finished.assign(model=finished["model"].map(bare)), "model"):
        dense = [f"{m.kind} {_mean(cells, m, 'dense')}{' %' * (m.kind == 'acc')}" for m in metrics]
        parts += [f"nothing removed from {model}: {', '.join(dense)}"] if dense else []
    return "; ".join(parts)


# The bands: their labels, the searches that each stands for, and how many draws it shows.

MERGED = 3  # the fewest searches that share a band


def bands(cells: pd.DataFrame) -> dict[str, list[str]]:
    """The searches of a panel by the label of their band, in order.

    If all searches found the same masks in the same cells, they share one band: `all 7 searches`. A search that is
    not finished has `5 of 6` after its name.
    """
    searches = style.ordered(cells["algo"])
    if len(searches) >= MERGED and (cells["status"] == "done").all():
        cells = cells.assign(setting=labels(cells, [*SETTING, "seed"])).sort_values("setting", kind="stable")
        found = {tuple(zip(p["setting"], p["dropped"], strict=True)) for _, p in cells.groupby("algo")}
        if len(found) == 1:
            return {f"all {len(searches)} searches": searches}
    named = {}
    for algo in searches:
        own = rows_of(cells, algo=algo)
        finished = len(done(own))
        named[algo if finished == len(own) else f"{algo} ({finished} of {len(own)})"] = [algo]
    return named


def most_cells(cells: pd.DataFrame) -> int:
    """The largest number of cells that a search has in one panel."""
    return int(cells.groupby(["model", "objective", "k", "algo"]).size().max())


def draws_of(cells: pd.DataFrame) -> str:
    """How many draws a search of a panel has: `6 draws`, or `12 cells of 6 draws` if it has more cells than draws."""
    finished, most = done(cells), most_cells(cells)
    by = finished.groupby("algo")
    draws = max((len(set(labels(part, DRAW))) for _, part in by), default=most)
    return of_draws(most if (by.size() == most).any() else draws, draws)


def of_draws(cells: int, draws: int) -> str:
    """How many draws cells have: `6 draws`, or `12 cells of 6 draws` if there are more cells than draws."""
    return f"{cells} cells of " * (cells > draws) + counted(draws, "draw")


# The squares: a band has a thin line for each cell of its search. With more than LINES cells, it is one line, and its
# shade is the share of the cells that remove the unit.

BACK, CLOSED = "#EFEFEF", "#FBFBFB"  # units that stay, and units that cannot be removed
LINES = 12  # thinner lines could not be seen
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the key
MARGIN = 0.08  # white above and below each band, in lines of the panel


def _squares(axes: Axes, finished: pd.DataFrame, bands: Mapping[str, Sequence[str]], colour: str) -> None:
    n_blocks, split = int(finished["n_blocks"].iloc[0]), has_sublayers(finished)
    shades = _shades(colour).with_extremes(bad=CLOSED)
    for line, searches in enumerate(bands.values()):
        cells = rows_of(finished, algo=searches[0])  # searches of one band found the same masks
        if cells.empty:
            continue
        in_order = cells.sort_values([c for c in [*SETTING, "seed"] if c in cells], kind="stable")
        units = np.arange(n_blocks * (2 if split else 1))
        rows = np.array([np.isin(units, mask) for mask in in_order["dropped"]], dtype=float)
        if len(rows) > LINES:
            rows = rows.mean(axis=0, keepdims=True)
        drawn = _halves(rows, finished["unit"].iloc[0], n_blocks) if split else rows
        edges = line + np.linspace(MARGIN, 1 - MARGIN, len(drawn) + 1)
        data = np.ma.masked_invalid(drawn)
        axes.pcolormesh(np.arange(n_blocks + 1), edges, data, cmap=shades, vmin=0, vmax=1)
        if split:
            axes.axhline(line + 0.5, color="white", lw=0.8)
    axes.vlines(np.arange(n_blocks + 1), 0, len(bands), color="white", lw=0.9)


def has_sublayers(cells: pd.DataFrame) -> bool:
    """Whether the masks of a panel are over sub-layers."""
    return bool({*column(cells, "unit", "block")} & {"sublayer", "attention", "mlp"})


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


def _halves(rows: NDArray[np.float64], unit: str, n_blocks: int) -> NDArray[np.float64]:
    """The lines of attention above those of MLPs (2 lines, blocks); NaN where a kind cannot be removed."""
    by_kind = rows.reshape(len(rows), n_blocks, 2)  # units 2i and 2i + 1 are attention and MLP of block i
    open_kinds = {"attention": [0], "mlp": [1]}.get(unit, [0, 1])
    kinds = [by_kind[:, :, kind] if kind in open_kinds else by_kind[:, :, kind] * np.nan for kind in (0, 1)]
    return np.concatenate(kinds)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """The content of the CSV: one row per cell (also missing cells), with mask and metrics."""
    metrics = [name for name in frame if str(name).startswith(("dense/", "pruned/"))]
    where = ["model", "objective", "calibration", "samples", "length", "algo", "k", "seed"]
    finished = rows_of(frame, status="done")
    names = pd.Series([" ".join(mask.names()) for mask in masks(finished)], finished.index, dtype=object)
    drawn = frame[["cell", "status", *where, "dropped", *metrics]]
    return drawn.assign(dropped=names.reindex(frame.index, fill_value=""))


def _build(study: AskedStudy, _: Namespace) -> Drawing:
    return Drawing(draw(study.frame, study.title), table(study.frame))


FIGURE = StudyFigure(
    name="fig1_masks",
    heading="Which blocks each search removed",
    build=_build,
    section="masks",
    caption="Each row is a search and each column a block. Each thin line is one calibration draw; if there are very "
    "many, the shade is the share of draws that remove the block. Beside each row are held-out perplexity and "
    "accuracy.",
)
