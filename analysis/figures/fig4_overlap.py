"""Figure 4: how far searches and objectives remove the same blocks, corrected for overlap by chance.

python -m analysis.fig4_overlap --results results --study small

The paper has no such figure; it compares masks by eye. The upper part has a heat map for each model and k.
It shows the mean corrected Jaccard overlap of the masks that two searches found on the same samples. Its diagonal
compares different draws of one search. The lower part shows the overlap of masks whose cells differ in one factor
only, with intervals over calibration draws. Objectives are compared on the same samples; a note names those that have
none in common with another one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from ..data.load import done
from ..data.study import AskedStudy
from ..stats import overlap_groups, overlap_pairs
from ..stats.frames import each
from ..stats.grid import COMPARISONS
from ..stats.removal import heading
from .cli import arguments, run
from .mask_overlaps import APART, comparisons, heat, means
from .style import COLOURS, GREY, LABEL, PAGE, SMALL, TITLE, empty, head, save, wrapped

COLOUR_MAP = "cividis"
SIDE, NAMES = 0.1, 1.0  # inches: a row of a heat map, the names of the searches


def draw(heats: pd.DataFrame, pairs: pd.DataFrame, title: str, note: str = "") -> Figure:
    """Heat maps with one row per model and one column per k; below them, the comparisons.

    `note` says what is left out (see `overlap_pairs.note`).
    """
    models = sorted(heats["model"].unique())
    ks = {model: sorted(heats.loc[heats["model"] == model, "k"].unique()) for model in models}
    columns = max(len(v) for v in ks.values())
    side = max(1.9, SIDE * _size(heats))
    above, below = 0.35 + NAMES, 0.75 + (0.2 + 0.16 * len(models)) * len(_names(pairs))
    width = max(6.0, NAMES + (side + 0.15) * columns + 0.75)
    figure = Figure(figsize=(width, 0.6 + (side + above) * len(models) + below), layout="constrained")
    head(figure, title, width)
    grid = figure.add_gridspec(len(models) + 1, columns, height_ratios=[*[side + above] * len(models), below])
    shown = []
    for i, model in enumerate(models):
        for j in range(columns):
            axes = figure.add_subplot(grid[i, j])
            shown.append(axes)
            if j >= len(ks[model]):
                empty(axes, "")
                continue
            k = ks[model][j]
            image = _map(axes, heats[(heats["model"] == model) & (heats["k"] == k)], j == 0)
            axes.set_title(heading(model, k), fontsize=TITLE, pad=16)
    bar = figure.colorbar(image, ax=shown, shrink=0.4, aspect=30, pad=0.01, extend="min")
    bar.set_label("corrected overlap (0: chance, 1: equal)", fontsize=SMALL)
    bar.outline.set_visible(False)
    _strips(figure.add_subplot(grid[-1, :]), means(pairs), models)
    figure.supxlabel(wrapped(_foot(heats, note), int(width * 18), "; "), fontsize=SMALL, color=GREY)
    return figure


def _foot(heats: pd.DataFrame, note: str) -> str:
    """How the masks of the heat maps are paired, and what is left out."""
    parts = ["heat maps: masks found on the same samples; diagonal: other draws of the same data"]
    if (heats["paired"] == APART).any():
        parts.append("objectives on texts and on items have no common samples: all their draws are compared")
    return "; ".join([*parts, note] if note else parts)


def _size(heats: pd.DataFrame) -> int:
    return int(
        heats.groupby(["model", "k"])[["objective_a", "algo_a"]]
        .apply(lambda g: len(g.drop_duplicates()))
        .max()
    )


def _map(axes: Axes, chosen: pd.DataFrame, named: bool) -> QuadMesh:
    keys = list(dict.fromkeys(zip(chosen["objective_a"], chosen["algo_a"], strict=True)))
    position = {key: i for i, key in enumerate(keys)}
    values = np.full((len(keys), len(keys)), np.nan)
    for row in each(chosen):
        i, j = (
            position[str(row.objective_a), str(row.algo_a)],
            position[str(row.objective_b), str(row.algo_b)],
        )
        values[i, j] = values[j, i] = row.corrected
    axes.set_facecolor("0.85")
    image = axes.pcolormesh(np.ma.masked_invalid(values), cmap=COLOUR_MAP, vmin=0, vmax=1)
    for i, j in zip(*np.nonzero(np.isnan(values)), strict=True):
        axes.plot(j + 0.5, i + 0.5, "x", color="0.5", ms=2.5, mew=0.5)
    axes.set(xlim=(0, len(keys)), ylim=(len(keys), 0), aspect="equal")
    _label(axes, keys, named)
    return image


def _label(axes: Axes, keys: Sequence[tuple[str, str]], named: bool) -> None:
    """Name the search of every row and column, and the objective of every group of them."""
    objectives = list(dict.fromkeys(o for o, _ in keys))
    starts = np.cumsum([0, *(sum(o == name for o, _ in keys) for name in objectives)])
    for edge in starts[1:-1]:
        axes.axhline(edge, color="white", lw=1.5)
        axes.axvline(edge, color="white", lw=1.5)
    places, searches = np.arange(len(keys)) + 0.5, [a for _, a in keys]
    axes.set_xticks(places, searches, fontsize=SMALL - 0.5, rotation=90)
    axes.set_yticks(places, searches if named else [""] * len(keys), fontsize=SMALL - 0.5)
    axes.tick_params(length=0, pad=2)
    for middle, name in zip((starts[1:] + starts[:-1]) / 2, objectives, strict=True):
        text: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "textcoords": "offset points"}
        axes.annotate(name, (middle, 0), (0, 2), ha="center", va="bottom", **text)
        axes.annotate(name, (len(keys), middle), (3, 0), ha="left", va="center", rotation=270, **text)
    for side in axes.spines.values():
        side.set_visible(False)


def _names(rows: pd.DataFrame) -> list[str]:
    """The comparisons that some model has pairs for; if there are none, all but that of seeds."""
    found = [name for name in COMPARISONS if name in set(rows["comparison"])]
    return found or [name for name in COMPARISONS if name != "seeds"]


def _strips(axes: Axes, rows: pd.DataFrame, models: list[str]) -> None:
    """For each comparison and model, draw the mean overlap and its interval, with the number of pairs and draws."""
    names = _names(rows)
    step = 0.72 / len(models)
    at = rows.set_index(["comparison", "model"])
    for i, model in enumerate(models):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot([], [], "o", color=colour, ms=5, label=model)
        for y, name in enumerate(names):
            height = y + step * (i - (len(models) - 1) / 2)
            if (name, model) not in at.index:
                axes.text(1.04, height, "no pair", fontsize=SMALL, color=GREY, va="center")
                continue
            row: Any = at.loc[(name, model)]
            axes.plot([row["low"], row["high"]], [height] * 2, color=colour, lw=1.6, alpha=0.7)
            axes.plot(row["corrected"], height, "o", color=colour, ms=5, mec="white", mew=0.5)
            words = f"{row['pairs']:,.0f} pairs, {row['draws']:.0f} draws"
            axes.text(1.04, height, words, fontsize=SMALL, color=GREY, va="center")
    axes.axvline(0, color="0.7", lw=0.8)
    low = float(np.nanmin([-0.05, *rows["low"]])) - 0.03
    axes.set(xlim=(max(-1.0, low), 1.32), ylim=(len(names) - 0.4, -0.6))
    axes.set_xticks([t for t in np.arange(-1, 1.01, 0.2).round(1) if t >= low])
    axes.spines["bottom"].set_bounds(axes.get_xlim()[0], 1.0)
    axes.set_xlabel("corrected overlap: mean, 95 % interval over calibration draws", fontsize=LABEL)
    axes.set_yticks(range(len(names)), [f"{name} differ" for name in names])
    columns = max(1, min(len(models), int(PAGE * 12 / max(len(model) + 6 for model in models))))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderpad=0)


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    heats, pairs = heat(frame), comparisons(frame)
    numbers = {
        "fig4_overlap_pairs": pairs.drop(
            columns=[f"{name}_{end}" for name in overlap_pairs.OF_DRAWS for end in "ab"]
        )
    }
    numbers |= {
        "fig4_overlap_means": means(pairs),
        "fig4_overlap_groups": overlap_groups.groups_of(done(frame)),
    }
    figure = draw(heats, pairs, title, overlap_pairs.note(done(frame)))
    return save(figure, heats, given.out, "fig4_overlap", numbers)


def main() -> None:
    """Draw the figure for a results folder."""
    run("fig4_overlap", arguments("Chance-corrected overlap of masks."), _write)
