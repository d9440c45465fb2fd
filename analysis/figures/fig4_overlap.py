"""Figure 4: how far searches and objectives remove the same blocks, corrected for overlap by chance.

depth-pruning figure fig4 --results results --study small

The paper has no such figure; it compares masks by eye. The upper part has a heat map for each model and k.
It shows the mean corrected Jaccard overlap of the masks that two searches found on the same samples. Its diagonal
compares different draws of one search. The lower part shows the overlap of masks whose cells differ in one factor
only, with intervals over calibration draws. Objectives are compared on the same samples; a note names those that have
none in common with another one.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from ..data.load import done
from ..data.study import AskedStudy
from ..stats import mask_overlap
from ..stats.grid import COMPARISONS, STRATUM, Labels, each, groups, heading, labels
from ..stats.mask_overlap import OF_DRAWS, PARTNERS, MaskSet
from ..stats.means import CellDraws
from . import style
from .cli import Drawing, StudyFigure, once
from .style import GREY, SMALL, rows_of

SIDE, NAMES = 0.1, 1.0  # inches: a row of a heat map, the names of the searches


def draw(heats: pd.DataFrame, pairs: pd.DataFrame, title: str, note: str = "") -> Figure:
    """Heat maps with one row per model and one column per k; below them, the comparisons.

    `note` says what is left out (see `mask_overlap.note`).
    """
    models = sorted(heats["model"].unique())
    ks = {model: sorted(rows_of(heats, model=model)["k"].unique()) for model in models}
    columns = max(len(v) for v in ks.values())
    names = [name for name in COMPARISONS if name in set(pairs["comparison"])]
    names = names or [name for name in COMPARISONS if name != "seeds"]
    most = max(len(_keys(panel)) for _, panel in groups(heats, STRATUM))
    side = max(1.9, SIDE * most)
    above, below = 0.35 + NAMES, 0.75 + (0.2 + 0.16 * len(models)) * len(names)
    width = max(6.0, NAMES + (side + 0.15) * columns + 0.75)
    figure = style.sheet(width, 0.6 + (side + above) * len(models) + below, title)
    grid = figure.add_gridspec(len(models) + 1, columns, height_ratios=[*[side + above] * len(models), below])
    shown = []
    for i, model in enumerate(models):
        for j in range(columns):
            axes = figure.add_subplot(grid[i, j])
            shown.append(axes)
            if j >= len(ks[model]):
                style.empty(axes, "")
                continue
            image = _map(axes, rows_of(heats, model=model, k=ks[model][j]), j == 0)
            axes.set_title(heading(model, ks[model][j]), fontsize=style.TITLE, pad=16)
    bar = figure.colorbar(image, ax=shown, shrink=0.4, aspect=30, pad=0.01, extend="min")
    bar.set_label("corrected overlap (0: chance, 1: equal)", fontsize=SMALL)
    bar.outline.set_visible(False)
    _strips(figure.add_subplot(grid[-1, :]), means(pairs), names, models)
    foot = "heat maps: masks found on the same samples; diagonal: other draws of the same data"
    if (heats["paired"] == APART).any():
        foot += "; objectives on texts and on items have no common samples: all their draws are compared"
    foot = style.wrapped(f"{foot}; {note}" if note else foot, int(width * 18), "; ")
    figure.supxlabel(foot, fontsize=SMALL, color=GREY)
    return figure


def _keys(panel: pd.DataFrame) -> list[tuple[str, str]]:
    """The searches of a heat map: objective and algorithm."""
    return list(dict.fromkeys(zip(panel["objective_a"], panel["algo_a"], strict=True)))


def _map(axes: Axes, chosen: pd.DataFrame, named: bool) -> QuadMesh:
    keys = _keys(chosen)
    position = {key: i for i, key in enumerate(keys)}
    values = np.full((len(keys), len(keys)), np.nan)
    for row in each(chosen):
        i, j = position[row.objective_a, row.algo_a], position[row.objective_b, row.algo_b]
        values[i, j] = values[j, i] = row.corrected
    axes.set_facecolor("0.85")
    image = axes.pcolormesh(np.ma.masked_invalid(values), cmap="cividis", vmin=0, vmax=1)
    for i, j in np.argwhere(np.isnan(values)):
        axes.plot(j + 0.5, i + 0.5, "x", color="0.5", ms=2.5, mew=0.5)
    axes.set(xlim=(0, len(keys)), ylim=(len(keys), 0), aspect="equal")
    places, searches = np.arange(len(keys)) + 0.5, [algo for _, algo in keys]
    axes.set_xticks(places, searches, fontsize=SMALL - 0.5, rotation=90)
    axes.set_yticks(places, searches if named else [""] * len(keys), fontsize=SMALL - 0.5)
    style.hide_frame(axes)
    objectives = [objective for objective, _ in keys]
    for name in dict.fromkeys(objectives):
        start, count = objectives.index(name), objectives.count(name)
        if start:
            axes.axhline(start, color="white", lw=1.5)
            axes.axvline(start, color="white", lw=1.5)
        text: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "textcoords": "offset points"}
        axes.annotate(name, (start + count / 2, 0), (0, 2), ha="center", va="bottom", **text)
        axes.annotate(name, (len(keys), start + count / 2), (3, 0), va="center", rotation=270, **text)
    return image


def _strips(axes: Axes, rows: pd.DataFrame, names: Sequence[str], models: Sequence[str]) -> None:
    """For each comparison and model, draw the mean overlap and its interval, with the number of pairs and draws."""
    step = 0.72 / len(models)
    at = rows.set_index(["comparison", "model"])
    for i, model in enumerate(models):
        look = style.COLOURS[i % len(style.COLOURS)], "o"
        axes.plot([], [], "o", color=look[0], ms=5, label=model)
        for y, name in enumerate(names):
            height, words = y + step * (i - (len(models) - 1) / 2), "no pair"
            if (name, model) in at.index:
                row: Any = at.loc[(name, model)]
                style.interval(axes, row["corrected"], height, [row["low"], row["high"]], look, sideways=True)
                words = f"{row['pairs']:,.0f} pairs, {row['draws']:.0f} draws"
            axes.text(1.04, height, words, fontsize=SMALL, color=GREY, va="center")
    axes.axvline(0, color="0.7", lw=0.8)
    low = float(np.nanmin([-0.05, *rows["low"]])) - 0.03
    axes.set(xlim=(max(-1.0, low), 1.32), ylim=(len(names) - 0.4, -0.6))
    axes.set_xticks([t for t in np.arange(-1, 1.01, 0.2).round(1) if t >= low])
    axes.spines["bottom"].set_bounds(axes.get_xlim()[0], 1.0)
    axes.set_xlabel("corrected overlap: mean, 95 % interval over calibration draws", fontsize=style.LABEL)
    axes.set_yticks(range(len(names)), [f"{name} differ" for name in names])
    columns = max(1, min(len(models), int(style.PAGE * 12 / max(len(model) + 6 for model in models))))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderpad=0)


# The numbers of the figure: overlaps of the masks of two searches, and of masks whose cells differ in one factor.

SAME, APART, BETWEEN = "same samples", "no common samples", "other draws"


def heat(frame: pd.DataFrame) -> pd.DataFrame:
    """For each model and k, the mean corrected overlap of every pair of searches (objective, algorithm).

    Masks of two searches are compared within the same samples. If two objectives have no common samples, because one
    reads texts and the other items, all their draws are compared. A search is compared with itself between different
    draws of the same data. `paired` says which, and `pairs` is the number of pairs of masks in the mean. Masks with
    different protected blocks are not compared, because both need the same open blocks in the null model.
    """
    rows = []
    for (model, k), cells in groups(done(frame), STRATUM):
        drawn, protected = CellDraws.of(cells), labels(cells, ["protect_first", "protect_last"])
        masks = MaskSet.of(cells)
        place = pd.Series(np.arange(len(cells)), cells.index)
        own = {name: place[part.index].to_numpy() for name, part in groups(cells, ["objective", "algo"])}
        keys = [(o, a) for o in sorted(cells["objective"].unique()) for a in style.ordered(cells["algo"])]
        for first, second in combinations_with_replacement(keys, 2):
            mean, count, how = float("nan"), 0, ""
            if first in own and second in own:
                i, j, how = _paired(drawn, own[first], own[second])
                alike = protected[i] == protected[j]
                overlaps = masks.pairs(i[alike], j[alike]).corrected
                count = len(overlaps)
                mean = float(np.mean(overlaps)) if count else mean
            rows.append([model, int(k), *first, *second, mean, count, how])
    columns = ["model", "k", "objective_a", "algo_a", "objective_b", "algo_b", "corrected", "pairs", "paired"]
    return pd.DataFrame(rows, columns=columns)


def _paired(drawn: CellDraws, first: Labels, second: Labels) -> tuple[Labels, Labels, str]:
    """The rows of the compared masks of two searches, which have these rows, and how they are paired."""
    if first is second:
        i, j = mask_overlap.within(drawn.data[first], drawn.draw[first])
        return first[i], first[j], BETWEEN
    i, j = np.nonzero(drawn.draw[first][:, None] == drawn.draw[second])
    if len(i):
        return first[i], second[j], SAME
    # All pairs, or in a large study PARTNERS for each mask of the first search, evenly spread.
    step = np.arange(min(len(second), PARTNERS))
    i = np.repeat(np.arange(len(first)), len(step))
    j = (i * len(step) + np.tile(step, len(first))) % len(second)
    return first[i], second[j], APART


def comparisons(frame: pd.DataFrame) -> pd.DataFrame:
    """All pairs of masks whose cells differ in one factor; the column `comparison` names the factor."""
    parts = [mask_overlap.pairs(done(frame), name).assign(comparison=name) for name in COMPARISONS]
    nonempty = [part for part in parts if len(part)]
    return pd.concat(nonempty, ignore_index=True) if nonempty else parts[0]


@once
def comparisons_of(study: AskedStudy) -> pd.DataFrame:
    """The `comparisons` of a study."""
    return comparisons(study.frame)


def means(pairs: pd.DataFrame, by: Sequence[str] = ("comparison", "model")) -> pd.DataFrame:
    """For each combination of values in `by`: the mean overlaps, and the interval of `corrected` over draws."""
    rows = []
    for where, part in groups(pairs, by):
        mean = mask_overlap.mean(part)
        numbers = [part["jaccard"].mean(), mean.mean, mean.low, mean.high, mean.draws]
        rows.append([*where, len(part), *numbers])
    return pd.DataFrame(rows, columns=[*by, "pairs", "jaccard", "corrected", "low", "high", "draws"])


def _build(study: AskedStudy, _: Namespace) -> Drawing:
    cells, heats, pairs = done(study.frame), heat(study.frame), comparisons_of(study)
    ends = [f"{name}_{end}" for name in OF_DRAWS for end in "ab"]
    others = {
        "fig4_overlap_pairs": pairs.drop(columns=ends),
        "fig4_overlap_means": means(pairs),
        "fig4_overlap_groups": mask_overlap.groups_of(cells),
    }
    return Drawing(draw(heats, pairs, study.title, mask_overlap.note(cells)), heats, others)


FIGURE = StudyFigure(
    name="fig4_overlap",
    heading="Which searches and objectives remove the same blocks",
    build=_build,
    section="masks",
    caption="Chance-corrected overlap of masks found on the same samples: 0 is chance, 1 is equality. The diagonal "
    "compares draws of one search. Bars are 95 percent intervals over calibration draws.",
)
