"""Figure 6: what pruning for one objective costs in other outcomes, and the regret of each search.

python -m analysis fig6 --results results --study small

The paper has no such figure; it evaluates each mask only on tasks that match its objective. The upper part shows, for
each objective, the mean of each outcome over algorithms and draws (the geometric mean for perplexities). Its shades
say how many standard errors of the difference an objective is worse than the best one. The lower part shows the
regret of each cell. Regret is the calibration loss of the cell's mask minus that of the best mask of the same size
that any cell of the same problem scored. Its unit is the standard error of the paired difference between these two
masks on the same calibration samples.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from ..data.load import Metric, choose, done, names
from ..data.study import AskedStudy
from ..stats import crossed, outcome_errors, regret
from ..stats.crossed import Trace
from ..stats.grid import STRATUM, heading, strata_of
from .cli import arguments, run
from .style import (
    DASH,
    GREY,
    LABEL,
    PAGE,
    SMALL,
    TITLE,
    empty,
    head,
    legend,
    line_key,
    looks,
    number,
    ordered,
    save,
    shade_key,
)

NAMES = 1.35  # inches: the names of objectives and searches


def measure(frame: pd.DataFrame, traces: Mapping[str, Trace]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The crossed matrix, and every cell with its regret."""
    cells = done(frame)
    return matrix_of(cells), regret.best_known(cells, traces)


def draw(frame: pd.DataFrame, matrix: pd.DataFrame, regrets: pd.DataFrame, title: str) -> Figure:
    """For each model and k, draw the matrix and, below it, the regrets by algorithm. A row fits a page's width."""
    strata = strata_of(matrix)
    shown = list(dict.fromkeys(matrix["outcome"]))
    objectives = sorted(matrix["objective"].unique())
    algos = ordered(regrets["algo"])
    panel = max(2.2, 0.2 + column_width(shown) * (len(shown) + 0.6))
    columns = min(len(strata), max(1, int((PAGE - NAMES) / panel)))
    rows = math.ceil(len(strata) / columns)
    heights = [0.95 + 0.24 * len(objectives), 0.55 + (0.1 + 0.075 * len(objectives)) * len(algos)]
    figure = Figure(figsize=(NAMES + panel * columns, 0.4 + rows * sum(heights)), layout="constrained")
    head(figure, title, figure.get_figwidth())
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=heights * rows)
    top = float(max([1.0, *regrets["regret_se"].dropna()]))
    for i, (model, k) in enumerate(strata):
        above, below = grid[2 * (i // columns)][i % columns], grid[2 * (i // columns) + 1][i % columns]
        stratum = matrix[(matrix["model"] == model) & (matrix["k"] == k)]
        above.set_title(heading(model, k), fontsize=TITLE, pad=20, weight="bold")
        draw_matrix(above, stratum, objectives, shown, i % columns == 0)
        cells = regrets[(regrets["model"] == model) & (regrets["k"] == k)]
        asked = frame[(frame["model"] == model) & (frame["k"] == k)]
        _regrets(below, cells, asked, algos, objectives, i % columns == 0)
        below.set_xlim(-0.03 * top, 1.08 * top)
    for axes in grid[-2:, len(strata) - columns * (rows - 1) :].flat:
        axes.set_axis_off()
    note = "above: mean outcome of the masks pruned for each objective (perplexities: geometric mean); bold: best; "
    note += "shade: worse than the best by; SE: standard error of the difference from the best, "
    note += "over draws and over held-out windows or items; "
    note += "".join(f"{text}; " for text in sorted(set(matrix["note"])) if text)
    note += (
        "below: calibration loss above that of the best known mask, in standard errors of this difference, "
    )
    note += "paired on the samples on which that mask was chosen"
    marks = [
        line_key("mean", marker="o", ls="", ms=4.8),
        line_key("one cell", marker="o", ls="", ms=2.2, alpha=0.5),
        line_key("missing", marker="x", ls="", ms=3, mew=0.7),
    ]
    legend(figure, looks(objectives), note, [*keys(), *marks])
    return figure


def _regrets(
    axes: Axes,
    cells: pd.DataFrame,
    asked: pd.DataFrame,
    algos: list[str],
    objectives: list[str],
    named: bool,
) -> None:
    """Draw the regrets of finished cells. If a search has no finished cell for an objective, draw a cross."""
    if cells["regret_se"].notna().sum() == 0:
        empty(axes, "no finished cell" if cells.empty else "no losses that can be paired")
        return
    for y, algo in enumerate(algos):
        wanted = set(asked.loc[asked["algo"] == algo, "objective"])
        if y:
            axes.axhline(y - 0.5, color="0.93", lw=0.6, zorder=0)
        if not wanted:
            axes.text(0, y, "not asked for", fontsize=SMALL, color=GREY, va="center")
        for i, objective in enumerate(objectives):
            if objective not in wanted:
                continue
            chosen = cells[(cells["algo"] == algo) & (cells["objective"] == objective)]
            height = y + 0.8 / len(objectives) * (i - (len(objectives) - 1) / 2)
            colour, marker = looks(objectives)[objective]
            if chosen.empty:
                axes.plot(0, height, "x", color="0.6", ms=3, mew=0.7)
                continue
            values = chosen["regret_se"]
            small: dict[str, Any] = {"color": colour, "ms": 2.2, "alpha": 0.45, "mec": "none", "ls": ""}
            axes.plot(values, [height] * len(chosen), marker, **small)
            axes.plot(values.mean(), height, marker, color=colour, ms=4.8, mec="white", mew=0.5)
    axes.set(ylim=(len(algos) - 0.5, -0.5))
    axes.set_xlabel(f"regret, SE of the paired difference ({_known(cells['exact'])})", fontsize=LABEL - 0.5)
    axes.set_yticks(range(len(algos)), algos if named else [""] * len(algos), fontsize=SMALL + 0.5)
    axes.tick_params(axis="y", length=0)


def _known(exact: pd.Series[Any]) -> str:
    """Whether the best known mask is the best of all masks, or only the best of the scored masks."""
    return "exact" if exact.all() else "exact in part" if exact.any() else "best known"


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    choose(frame, "ppl")
    matrix, regrets = measure(frame, study.traces)
    where = ["cell", *STRATUM, "objective", "calibration", "draw", "algo"]
    losses = ["loss", "mask_loss", "best", "exact"]
    drawn = regrets[[*where, *losses, "regret", "regret_se", "relative_regret"]]
    return save(
        draw(frame, matrix, regrets, title), matrix, given.out, "fig6_crossed", {"fig6_crossed_regret": drawn}
    )


def main() -> None:
    """Draw the figure for a results folder."""
    run("fig6_crossed", arguments("Objectives against outcomes, and regret."), _write)


# The upper part of figure 6: the mean of each outcome for each objective, coloured by how much worse it is.

# How much worse than the best objective: bounds in standard errors of the difference, and a shade for each step.
BOUNDS = (0.0, 1.0, 2.0, 3.0, np.inf)
SHADES = ("#F3F6FA", "#CBDDEF", "#93BEE0", "#5A9BCF")
WORDS = ("under 1 SE", "1 to 2 SE", "2 to 3 SE", "3 SE or more")
KINDS = {"ppl": "perplexity", "acc": "accuracy, %"}


def outcomes(cells: pd.DataFrame) -> dict[str, pd.Series[Any]]:
    """Every measured perplexity and accuracy; accuracies are negated, so that lower is better."""
    by_name = {}
    for kind in ("ppl", "acc"):
        for name in names(cells, kind):
            values = Metric(kind, (name,)).of(cells)
            by_name[name] = values if kind == "ppl" else -values
    return by_name


def matrix_of(cells: pd.DataFrame) -> pd.DataFrame:
    """The mean of every outcome for each objective, and its distance from the best in standard errors.

    See `crossed.matrix` and `outcome_errors.differences`.
    """
    measured, perplexities = outcomes(cells), names(cells, "ppl")
    matrix = crossed.matrix(cells, measured, perplexities)
    errors = outcome_errors.differences(cells, measured, frozenset(perplexities))
    return matrix.merge(errors, on=[*STRATUM, "objective", "outcome"], how="left")


def draw_matrix(
    axes: Axes, stratum: pd.DataFrame, objectives: Sequence[str], shown: Sequence[str], named: bool
) -> None:
    """A row for each objective, a column for each outcome, and a last column with the number of draws."""
    means, worse = (
        stratum.pivot(index="objective", columns="outcome", values=values).reindex([*objectives])[[*shown]]
        for values in ("mean", "worse")
    )
    shades = ListedColormap(list(SHADES), "worse").with_extremes(bad="white")
    steps = np.digitize(worse.to_numpy(float), BOUNDS[1:-1]).astype(float)
    steps[worse.isna().to_numpy()] = np.nan
    norm = BoundaryNorm(np.arange(len(SHADES) + 1) - 0.5, len(SHADES))
    axes.pcolormesh(np.ma.masked_invalid(steps), cmap=shades, norm=norm, edgecolors="white", linewidth=1.5)
    draws = stratum.groupby("objective")["draws"].max()
    for i, objective in enumerate(objectives):
        for j in range(len(shown)):
            value, best = means.to_numpy()[i, j], worse.to_numpy()[i, j] == 0
            text = DASH if np.isnan(value) else number(abs(value))
            _write_outcome_matrix(axes, j + 0.5, i + 0.5, text, weight="bold" if best else "normal")
        _write_outcome_matrix(axes, len(shown) + 0.3, i + 0.5, f"{draws.get(objective, 0):.0f}", color=GREY)
    axes.set(xlim=(0, len(shown) + 0.6), ylim=(len(objectives), 0))
    labels = [f"pruned for {objective}" for objective in objectives] if named else [""] * len(objectives)
    axes.set_yticks(np.arange(len(objectives)) + 0.5, labels, fontsize=SMALL + 0.5)
    _columns(axes, shown)


def _columns(axes: Axes, shown: Sequence[str]) -> None:
    """Name the columns above the matrix, and the kind of each group of columns."""
    labels = [name.partition("/")[2].replace("_", "\n") for name in shown]
    axes.set_xticks([*(np.arange(len(shown)) + 0.5), len(shown) + 0.3], [*labels, "n,\ndraws"])
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    start = 0
    for kind, group in groupby(shown, key=lambda name: name.partition("/")[0]):
        width = len(list(group))
        at: dict[str, Any] = {
            "xycoords": axes.get_xaxis_transform(),
            "textcoords": "offset points",
            "annotation_clip": False,
        }
        middle = (start + width / 2, 1.0)
        axes.annotate(KINDS[kind], middle, (0, 25), ha="center", fontsize=SMALL, color=GREY, **at)
        start += width
    for side in axes.spines.values():
        side.set_visible(False)


def column_width(shown: Sequence[str]) -> float:
    """The width of a column in inches, so that no name touches the next."""
    words = [word for name in shown for word in name.partition("/")[2].split("_")]
    return max(0.5, 0.068 * max(map(len, words), default=0))


def _write_outcome_matrix(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=SMALL, **style)


def keys() -> list[Artist]:
    """The key of the shades."""
    return [shade_key(word, colour) for word, colour in zip(WORDS, SHADES, strict=True)]
