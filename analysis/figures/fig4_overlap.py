"""Figure 4: how far searches and objectives remove the same blocks, corrected for overlap by chance.

python -m analysis fig4 --results results --study small

The paper has no such figure; it compares masks by eye. The upper part has a heat map for each model and k.
It shows the mean corrected Jaccard overlap of the masks that two searches found on the same samples. Its diagonal
compares different draws of one search. The lower part shows the overlap of masks whose cells differ in one factor
only, with intervals over calibration draws. Objectives are compared on the same samples; a note names those that have
none in common with another one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..data.load import done
from ..data.study import AskedStudy
from ..stats import mask_overlap
from ..stats.grid import COMPARISONS, STRATUM, Labels, each, groups, heading, labels
from ..stats.means import CellDraws
from .cli import arguments, run
from .style import COLOURS, GREY, LABEL, PAGE, SMALL, TITLE, empty, head, ordered, save, wrapped

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
            columns=[f"{name}_{end}" for name in mask_overlap.OF_DRAWS for end in "ab"]
        )
    }
    numbers |= {
        "fig4_overlap_means": means(pairs),
        "fig4_overlap_groups": mask_overlap.groups_of(done(frame)),
    }
    figure = draw(heats, pairs, title, mask_overlap.note(done(frame)))
    return save(figure, heats, given.out, "fig4_overlap", numbers)


def main() -> None:
    """Draw the figure for a results folder."""
    run("fig4_overlap", arguments("Chance-corrected overlap of masks."), _write)


# The numbers of figure 4: overlaps of the masks of two searches, and of masks whose cells differ in one factor.

SAME, APART, BETWEEN = "same samples", "no common samples", "other draws"


def heat(frame: pd.DataFrame) -> pd.DataFrame:
    """For each model and k, the mean corrected overlap of every pair of searches (objective, algorithm).

    Masks of two searches are compared within the same samples. If two objectives have no common samples, because one
    reads texts and the other items, all their draws are compared. A search is compared with itself between different
    draws of the same data. `paired` says which, and `pairs` is the number of pairs of masks in the mean.
    """
    rows = []
    for (model, k), cells in groups(done(frame), STRATUM):
        drawn, protected = CellDraws.of(cells), labels(cells, ["protect_first", "protect_last"])
        place = pd.Series(np.arange(len(cells)), cells.index)
        searches = {
            name: _Search.of(part, drawn, protected, place[part.index].to_numpy())
            for name, part in groups(cells, ["objective", "algo"])
        }
        keys = [(o, a) for o in sorted(cells["objective"].unique()) for a in ordered(cells["algo"])]
        for first, second in combinations_with_replacement(keys, 2):
            overlaps, how = _between(searches.get(first), searches.get(second))
            mean = float(np.mean(overlaps)) if len(overlaps) else float("nan")
            rows.append([model, int(k), *first, *second, mean, len(overlaps), how])
    columns = ["model", "k", "objective_a", "algo_a", "objective_b", "algo_b", "corrected", "pairs", "paired"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class _Search:
    """The masks of one search, the draw and the data of each, and a number for its protected blocks."""

    masks: mask_overlap.MaskSet
    drawn: CellDraws
    protected: Labels

    @classmethod
    def of(cls, cells: pd.DataFrame, drawn: CellDraws, protected: Labels, rows: Labels) -> _Search:
        return cls(mask_overlap.MaskSet.of(cells), drawn.take(rows), protected[rows])


def _between(first: _Search | None, second: _Search | None) -> tuple[NDArray[np.float64], str]:
    """Corrected overlaps of the compared masks of two searches, and how they are paired.

    Masks with different protected blocks are not compared, because both need the same open blocks in the null model.
    """
    if first is None or second is None:
        return np.zeros(0), ""
    if first is second:
        i, j, how = *mask_overlap.within(first.drawn.data, first.drawn.draw), BETWEEN
    else:
        i, j = np.nonzero(first.drawn.draw[:, None] == second.drawn.draw)
        how = SAME
        if not len(i):
            i, j, how = *_all(len(first.drawn.draw), len(second.drawn.draw)), APART
    alike = first.protected[i] == second.protected[j]
    i, j = i[alike], j[alike]
    return first.masks.pairs(i, j, second.masks).corrected, how


def _all(n: int, m: int) -> tuple[Labels, Labels]:
    """The pairs of n rows with m rows: all, or in a large study PARTNERS for each row, evenly spread."""
    step = np.arange(min(m, mask_overlap.PARTNERS))
    first = np.repeat(np.arange(n), len(step))
    return first, (first * len(step) + np.tile(step, n)) % m


def comparisons(frame: pd.DataFrame) -> pd.DataFrame:
    """All pairs of masks whose cells differ in one factor; the column `comparison` names the factor."""
    parts = [mask_overlap.pairs(done(frame), name).assign(comparison=name) for name in COMPARISONS]
    nonempty = [part for part in parts if len(part)]
    return pd.concat(nonempty, ignore_index=True) if nonempty else parts[0]


def means(pairs: pd.DataFrame, by: Sequence[str] = ("comparison", "model")) -> pd.DataFrame:
    """For each combination of values in `by`: the mean overlaps, and the interval of `corrected` over draws."""
    rows = []
    for where, part in groups(pairs, by):
        mean = mask_overlap.mean(part)
        numbers = [part["jaccard"].mean(), mean.mean, mean.low, mean.high, mean.draws]
        rows.append([*where, len(part), *numbers])
    return pd.DataFrame(rows, columns=[*by, "pairs", "jaccard", "corrected", "low", "high", "draws"])
