"""Figure 6: what pruning for one objective costs in other outcomes, and the regret of each search.

depth-pruning figure fig6 --results results --study small

The paper has no such figure; it evaluates each mask only on tasks that match its objective. The upper part shows, for
each objective, the mean of each outcome over algorithms and draws (the geometric mean for perplexities). Its shades
say how many standard errors of the difference an objective is worse than the best one. The lower part shows the
regret of each cell. Regret is the calibration loss of the cell's mask minus that of the best mask of the same size
that any cell of the same problem scored. Its unit is the standard error of the paired difference between these two
masks on the same calibration samples.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from ..data.load import Metric, choose, done, names
from ..data.study import AskedStudy
from ..stats import crossed, outcome_errors, regret
from ..stats.grid import STRATUM, heading, strata_of
from . import style
from .cli import Drawing, StudyFigure, once
from .style import DASH, GREY, SMALL, line_key, rows_of

NAMES = 1.35  # inches: the names of objectives and searches
# How much worse than the best objective: bounds in standard errors of the difference, and a shade for each step.
BOUNDS = (1.0, 2.0, 3.0)
SHADES = {
    "under 1 SE": "#F3F6FA",
    "1 to 2 SE": "#CBDDEF",
    "2 to 3 SE": "#93BEE0",
    "3 SE or more": "#5A9BCF",
}
KINDS = {"ppl": "perplexity", "acc": "accuracy, %"}


@once
def matrix_of(study: AskedStudy) -> pd.DataFrame:
    """The mean of every outcome for each objective, and its distance from the best in standard errors.

    Accuracies are negated, so that lower is better. See `crossed.matrix` and `outcome_errors.differences`.
    """
    cells = done(study.frame)
    measured: dict[str, pd.Series[Any]] = {}
    perplexities = names(cells, "ppl")
    for name in (*perplexities, *names(cells, "acc")):
        values = Metric(name[:3], (name,)).of(cells)
        measured[name] = values if name in perplexities else -values
    matrix = crossed.matrix(cells, measured, perplexities)
    errors = outcome_errors.differences(cells, measured, frozenset(perplexities))
    return matrix.merge(errors, on=[*STRATUM, "objective", "outcome"], how="left")


@once
def regrets_of(study: AskedStudy) -> pd.DataFrame:
    """Every finished cell with its regret: the loss of its mask minus that of the best known mask."""
    return regret.best_known(done(study.frame), study.traces)


def draw(frame: pd.DataFrame, matrix: pd.DataFrame, regrets: pd.DataFrame, title: str) -> Figure:
    """For each model and k, draw the matrix and, below it, the regrets by algorithm. A row fits a page's width."""
    strata, shown = strata_of(matrix), list(dict.fromkeys(matrix["outcome"]))
    objectives, algos = sorted(matrix["objective"].unique()), style.ordered(regrets["algo"])
    panel = max(2.2, 0.2 + column_width(shown) * (len(shown) + 0.6))
    columns = min(len(strata), max(1, int((style.PAGE - NAMES) / panel)))
    rows = math.ceil(len(strata) / columns)
    heights = [0.95 + 0.24 * len(objectives), 0.55 + (0.1 + 0.075 * len(objectives)) * len(algos)]
    figure = style.sheet(NAMES + panel * columns, 0.4 + rows * sum(heights), title)
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=heights * rows)
    top = float(max([1.0, *regrets["regret_se"].dropna()]))
    for i, (model, k) in enumerate(strata):
        above, below = (grid[2 * (i // columns) + half][i % columns] for half in (0, 1))
        above.set_title(heading(model, k), fontsize=style.TITLE, pad=20, weight="bold")
        _matrix(above, rows_of(matrix, model=model, k=k), objectives, shown, i % columns == 0)
        cells, asked = rows_of(regrets, model=model, k=k), rows_of(frame, model=model, k=k)
        _regrets(below, cells, asked, algos, objectives, i % columns == 0)
        below.set_xlim(-0.03 * top, 1.08 * top)
    for axes in grid[-2:, len(strata) - columns * (rows - 1) :].flat:
        axes.set_axis_off()
    notes = [
        "above: mean outcome of the masks pruned for each objective (perplexities: geometric mean); bold: best",
        "shade: worse than the best by; SE: standard error of the difference from the best, over draws and over "
        "held-out windows or items",
        *(text for text in sorted(set(matrix["note"])) if text),
        "below: calibration loss above that of the best known mask, in standard errors of this difference, paired "
        "on the samples on which that mask was chosen",
    ]
    marks = [
        line_key("mean", marker="o", ls="", ms=4.8),
        line_key("one cell", marker="o", ls="", ms=2.2, alpha=0.5),
        line_key("missing", marker="x", ls="", ms=3, mew=0.7),
    ]
    shades = [style.shade_key(word, colour) for word, colour in SHADES.items()]
    style.legend(figure, style.looks(objectives), "; ".join(notes), [*shades, *marks])
    return figure


def column_width(shown: Sequence[str]) -> float:
    """The width of a column in inches, so that no name touches the next."""
    words = [word for name in shown for word in name.partition("/")[2].split("_")]
    return max(0.5, 0.068 * max(map(len, words), default=0))


def _matrix(
    axes: Axes, stratum: pd.DataFrame, objectives: Sequence[str], shown: Sequence[str], named: bool
) -> None:
    """A row for each objective, a column for each outcome, and a last column with the number of draws."""
    means, worse = (
        stratum.pivot(index="objective", columns="outcome", values=values)
        .reindex([*objectives])[[*shown]]
        .to_numpy(float)
        for values in ("mean", "worse")
    )
    steps = np.where(np.isnan(worse), np.nan, np.digitize(worse, BOUNDS))
    shades = ListedColormap(list(SHADES.values()), "worse").with_extremes(bad="white")
    norm = BoundaryNorm(np.arange(len(SHADES) + 1) - 0.5, len(SHADES))
    axes.pcolormesh(np.ma.masked_invalid(steps), cmap=shades, norm=norm, edgecolors="white", linewidth=1.5)
    text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL}
    draws = stratum.groupby("objective")["draws"].max()
    for i, objective in enumerate(objectives):
        for j in range(len(shown)):
            value = DASH if np.isnan(means[i, j]) else style.number(abs(means[i, j]))
            axes.text(j + 0.5, i + 0.5, value, weight="bold" if worse[i, j] == 0 else "normal", **text)
        axes.text(len(shown) + 0.3, i + 0.5, f"{draws.get(objective, 0):.0f}", color=GREY, **text)
    axes.set(xlim=(0, len(shown) + 0.6), ylim=(len(objectives), 0))
    labels = [f"pruned for {objective}" for objective in objectives] if named else [""] * len(objectives)
    axes.set_yticks(np.arange(len(objectives)) + 0.5, labels, fontsize=SMALL + 0.5)
    columns = [name.partition("/")[2].replace("_", "\n") for name in shown]
    axes.set_xticks([*(np.arange(len(shown)) + 0.5), len(shown) + 0.3], [*columns, "n,\ndraws"])
    axes.tick_params(labeltop=True, labelbottom=False)
    style.hide_frame(axes)
    start = 0
    for kind, group in groupby(shown, key=lambda name: name.partition("/")[0]):
        width, at = len(list(group)), axes.get_xaxis_transform()
        above = axes.annotate(KINDS[kind], (start + width / 2, 1.0), (0, 25), at, "offset points")
        above.set(ha="center", fontsize=SMALL, color=GREY, annotation_clip=False)
        start += width


def _regrets(
    axes: Axes,
    cells: pd.DataFrame,
    asked: pd.DataFrame,
    algos: Sequence[str],
    objectives: Sequence[str],
    named: bool,
) -> None:
    """Draw the regrets of finished cells. If a search has no finished cell for an objective, draw a cross."""
    if cells["regret_se"].notna().sum() == 0:
        style.empty(axes, "no finished cell" if cells.empty else "no losses that can be paired")
        return
    for y, algo in enumerate(algos):
        wanted = set(rows_of(asked, algo=algo)["objective"])
        if y:
            axes.axhline(y - 0.5, color="0.93", lw=0.6, zorder=0)
        if not wanted:
            axes.text(0, y, "not asked for", fontsize=SMALL, color=GREY, va="center")
        for i, (objective, (colour, marker)) in enumerate(style.looks(objectives).items()):
            values = rows_of(cells, algo=algo, objective=objective)["regret_se"]
            height = y + 0.8 / len(objectives) * (i - (len(objectives) - 1) / 2)
            if objective in wanted and values.empty:
                axes.plot(0, height, "x", color="0.6", ms=3, mew=0.7)
            elif objective in wanted:
                small: dict[str, Any] = {"ms": 2.2, "alpha": 0.45, "mec": "none", "ls": ""}
                axes.plot(values, [height] * len(values), marker, color=colour, **small)
                axes.plot(values.mean(), height, marker, color=colour, ms=4.8, mec="white", mew=0.5)
    style.name_rows(axes, algos, named)
    known = _known(cells["exact"])
    axes.set_xlabel(f"regret, SE of the paired difference ({known})", fontsize=style.LABEL - 0.5)


def _known(exact: pd.Series[Any]) -> str:
    """Whether the best known mask is the best of all masks, or only the best of the scored masks."""
    return "exact" if exact.all() else "exact in part" if exact.any() else "best known"


def _build(study: AskedStudy, _: Namespace) -> Drawing:
    choose(study.frame, "ppl")
    matrix, regrets = matrix_of(study), regrets_of(study)
    where = ["cell", *STRATUM, "objective", "calibration", "draw", "algo"]
    numbers = ["loss", "mask_loss", "best", "exact", "regret", "regret_se", "relative_regret"]
    others = {"fig6_crossed_regret": regrets[[*where, *numbers]]}
    return Drawing(draw(study.frame, matrix, regrets, study.title), matrix, others)


FIGURE = StudyFigure(
    name="fig6_crossed",
    heading="What pruning for one objective costs in other outcomes, and regret",
    build=_build,
    section="costs",
    caption="Top: mean outcomes by objective (perplexities: geometric means), darker if worse than the best by more "
    "standard errors of the difference. Bottom: how far each search ends above the best known mask, in standard "
    "errors of the difference between both masks on the same calibration samples.",
)
