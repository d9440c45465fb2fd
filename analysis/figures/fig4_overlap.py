"""Figure 4: how far searches and objectives remove the same blocks, corrected for overlap by chance.

python -m analysis.fig4_overlap --results results --study small

The paper has no such figure; it compares masks by eye. The upper part has a heat map for each model and k.
It shows the mean corrected Jaccard overlap of the masks that two searches find on the same samples. Its diagonal
compares different draws of the same data, for one search. The lower part shows the overlap of masks whose cells
differ in one factor only.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..data.load import done
from ..data.study import AskedStudy
from ..stats import overlap, overlap_groups, overlap_pairs, pairing
from ..stats.frames import each, groups
from ..stats.grid import COMPARISONS, DRAW, STRATUM, labels
from ..stats.removal import bare, heading
from .cli import arguments, run
from .style import COLOURS, GREY, empty, head, ordered, save, wrapped

COLOUR_MAP = "cividis"
DATA = [name for name in DRAW if name != "draw"]


def heat(frame: pd.DataFrame) -> pd.DataFrame:
    """For each model and k, the mean corrected overlap of every pair of searches (objective, algorithm).

    `pairs` is the number of pairs of masks in the mean.
    """
    rows = []
    for (model, k), cells in groups(done(frame), STRATUM):
        cells = cells.assign(samples_drawn=labels(cells, DRAW), data=labels(cells, DATA))
        searches = {name: _Search.of(part) for name, part in groups(cells, ["objective", "algo"])}
        keys = [(o, a) for o in sorted(cells["objective"].unique()) for a in ordered(cells["algo"])]
        for first, second in combinations_with_replacement(keys, 2):
            overlaps = _between(searches.get(first), searches.get(second))
            mean = float(np.mean(overlaps)) if len(overlaps) else float("nan")
            rows.append([model, int(k), *first, *second, mean, len(overlaps)])
    columns = ["model", "k", "objective_a", "algo_a", "objective_b", "algo_b", "corrected", "pairs"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class _Search:
    """The masks of one search, and for each the number of its data and of the samples drawn from these."""

    masks: overlap.MaskSet
    data: NDArray[np.int64]
    draws: NDArray[np.int64]

    @classmethod
    def of(cls, cells: pd.DataFrame) -> _Search:
        return cls(overlap.MaskSet.of(cells), cells["data"].to_numpy(), cells["samples_drawn"].to_numpy())


def _between(first: _Search | None, second: _Search | None) -> NDArray[np.float64]:
    """Corrected overlaps of the masks of two searches, for pairs of masks from the same samples.

    If both are the same search, the two masks of each pair are from different draws of the same data. Objectives on
    texts and on items share no samples, so they have no pairs.
    """
    if first is None or second is None:
        return np.zeros(0)
    if first is second:
        i, j = pairing.within(first.data, first.draws)
    else:
        i, j = np.nonzero(first.draws[:, None] == second.draws)
    return first.masks.pairs(i, j, second.masks).corrected


def comparisons(frame: pd.DataFrame) -> pd.DataFrame:
    """All pairs of masks whose cells differ in one factor; the column `comparison` names the factor."""
    parts = [overlap_pairs.pairs(done(frame), name).assign(comparison=name) for name in COMPARISONS]
    nonempty = [part for part in parts if len(part)]
    return pd.concat(nonempty, ignore_index=True) if nonempty else parts[0]


def draw(heats: pd.DataFrame, pairs: pd.DataFrame, title: str, note: str = "") -> Figure:
    """Heat maps with one row per model and one column per k; below them, the comparisons.

    `note` says what is left out (see `overlap_pairs.note`).
    """
    models = sorted(heats["model"].unique())
    ks = {model: sorted(heats.loc[heats["model"] == model, "k"].unique()) for model in models}
    columns = max(len(v) for v in ks.values())
    side = max(1.9, 0.5 + 0.115 * _size(heats))
    labels = any(bare(model) != model for model in models)  # they take a second line, and a wide legend
    above, below = (0.6, 1.9 + 0.3 * len(models)) if labels else (0.35, 1.9)
    width = max(5.0, 2.6 + (side + 0.4) * columns if labels else 1.3 + side * columns)
    figure = Figure(figsize=(width, 0.6 + (side + above) * len(models) + below), layout="constrained")
    head(figure, title, width)
    heights = [*[side + above] * len(models), below]
    grid = figure.add_gridspec(len(models) + 1, columns, height_ratios=heights)
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
            axes.set_title(heading(model, k), fontsize=8.5)
    bar = figure.colorbar(image, ax=shown, shrink=0.5, aspect=30, pad=0.01)
    bar.set_label("chance-corrected overlap\n0: chance, 1: equal", fontsize=7.5)
    bar.ax.tick_params(labelsize=7)
    _strips(figure.add_subplot(grid[-1, :]), pairs, models, 2 if labels else len(models))
    if note:
        figure.supxlabel(wrapped(note, int(width * 16), " "), fontsize=7, color=GREY)
    return figure


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
    objectives = list(dict.fromkeys(o for o, _ in keys))
    edges = [sum(o == name for o, _ in keys) for name in objectives]
    starts = np.cumsum([0, *edges])
    for edge in starts[1:-1]:
        axes.axhline(edge, color="white", lw=1.5)
        axes.axvline(edge, color="white", lw=1.5)
    axes.set(xlim=(0, len(keys)), ylim=(len(keys), 0), aspect="equal")
    axes.set_yticks(
        np.arange(len(keys)) + 0.5, [a for _, a in keys] if named else [""] * len(keys), fontsize=6.5
    )
    axes.set_xticks((starts[1:] + starts[:-1]) / 2, objectives, fontsize=7)
    axes.tick_params(length=0, pad=2)
    return image


def _strips(axes: Axes, pairs: pd.DataFrame, models: list[str], columns: int) -> None:
    """For each comparison and model, draw the mean overlap and the interquartile range. The legend has `columns`."""
    names = list(COMPARISONS)
    step = 0.36 if columns == len(models) else 0.9 / len(models)
    for i, model in enumerate(models):
        axes.plot([], [], "o", color=COLOURS[i % len(COLOURS)], ms=5, label=model)
        for y, name in enumerate(names):
            overlaps = pairs.loc[(pairs["comparison"] == name) & (pairs["model"] == model), "corrected"]
            height = y + step * (i - (len(models) - 1) / 2)
            colour = COLOURS[i % len(COLOURS)]
            if overlaps.empty:
                axes.text(0.01, height, f"no pair of {model}", fontsize=6, color="0.5", va="center")
                continue
            axes.plot(
                np.quantile(overlaps, [0.25, 0.75]),
                [height] * 2,
                color=colour,
                lw=2.5,
                alpha=0.45,
                solid_capstyle="butt",
            )
            axes.plot(overlaps.mean(), height, "o", color=colour, ms=5, mec="white", mew=0.5)
            axes.text(1.06, height, f"{len(overlaps):,} pairs", fontsize=6, color=GREY, va="center")
    axes.axvline(0, color="0.7", lw=0.8)
    axes.set(xlim=(-0.2, 1.3), ylim=(len(names) - 0.4, -0.6))
    axes.set_xlabel("corrected overlap: mean, middle half of pairs", fontsize=8)
    axes.set_yticks(range(len(names)), [f"{name} differ" for name in names], fontsize=7.5)
    axes.legend(
        frameon=False, fontsize=7.5, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderpad=0
    )


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    heats, pairs = heat(frame), comparisons(frame)
    return save(
        draw(heats, pairs, title, overlap_pairs.note(done(frame))),
        heats,
        given.out,
        "fig4_overlap",
        {"fig4_overlap_pairs": pairs, "fig4_overlap_groups": overlap_groups.groups_of(done(frame))},
    )


def main() -> None:
    """Draw the figure for a results folder."""
    run("fig4_overlap", arguments("Chance-corrected overlap of masks."), _write)
