"""Figure 3: the accuracy and perplexity of each search, with intervals, and how much the searches differ.

Source: figure 3 of arXiv 2604.24938. Standard deviations over searches have ddof 0. In the CSV, variances are those
of arithmetic means, as in the paper.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..data.load import Metric, choose, done
from ..data.study import AskedStudy
from ..stats.grid import STRATUM, groups, strata_of
from ..stats.means import CellDraws, compared, means, over_draws
from . import style
from .cli import Drawing, StudyFigure
from .style import EVERY, GREY, LINE, TIMES, Rows, rows_of

OUTCOMES = ("perplexity", "accuracy")


def draw(searches: pd.DataFrame, metrics: Mapping[str, Metric]) -> Figure:
    """A row of panels for each outcome: a panel for each model and k, with a line for each search."""
    distinct = searches.groupby("objective")["distinct"].transform("max")
    alike = (distinct == 1) & (searches["searches"] > 1)
    searches = searches.assign(algo=searches["algo"].mask(alike, EVERY))
    strata, rows = strata_of(searches), Rows.of_cells(searches)
    note = "points: means over draws, geometric for perplexities; lines: 95 % intervals over draws, in the upper "
    note += "panels cut at the frame; SD: standard deviation over searches, of accuracies in points, of perplexities "
    note += f"as a factor ({TIMES})"
    height = rows.height * LINE + 0.6
    title = "How much searches differ, and how much objectives do"
    figure, grid = style.page(2, len(strata), height, title, note)
    for line, outcome in zip(grid, OUTCOMES, strict=True):
        for axes, (model, k) in zip(line, strata, strict=True):
            _panel(axes, rows_of(searches, outcome=outcome, model=model, k=k), rows, outcome == "perplexity")
            rows.name(axes, axes is line[0])
            axes.set_title(style.stratum(model, k, len(strata) > 3) if line is grid[0] else "")
        line[0].set_xlabel(metrics[outcome].label + ", %" * (outcome == "accuracy"))
    return figure


def _panel(axes: Axes, chosen: pd.DataFrame, rows: Rows, logarithmic: bool) -> None:
    if chosen["mean"].isna().all():
        style.empty(axes, "not measured")
        return
    values = np.log(chosen["mean"]) if logarithmic else chosen[["mean", "low", "high"]]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = max(0.06 * (high - low), 0.02 if logarithmic else 1.0)
    ends = np.array([low - room, high + room])
    axes.set_xscale("log" if logarithmic else "linear")
    axes.set_xlim(*(np.exp(ends) if logarithmic else ends))
    if logarithmic:
        style.plain_log(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.ticklabel_format(axis="x", useOffset=False)
    axes.grid(axis="x", color="0.93", lw=0.6)
    axes.set_axisbelow(True)
    for objective, own in groups(chosen, "objective"):
        y = [rows.lines[objective, algo] for algo in own["algo"]]
        style.dots(axes, own["mean"], y, (own["low"], own["high"]), style.colour(objective))
        axes.text(
            1, rows.heads[objective], _words(own.iloc[0]), ha="right", va="center_baseline", color=GREY,
            transform=axes.get_yaxis_transform(),
            in_layout=False,
        )  # fmt: skip


def _words(row: pd.Series[Any]) -> str:
    """How much the searches of an objective differ, as text."""
    if np.isnan(row["sd"]):
        return "one search"
    if row["distinct"] == 1:
        return "all equal"
    sd = f"{TIMES}{style.number(row['sd'])}" if row["outcome"] == "perplexity" else style.number(row["sd"])
    return f"SD {sd}"


# The numbers of the figure: means of each search with intervals over draws, and how much the searches differ.


def spread(frame: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """One row for each outcome, objective, model, k and algorithm.

    `value` is the arithmetic mean over cells, and `variance` its variance over algorithms. The figure shows `mean`,
    `low` and `high`; for perplexities, `mean` is geometric. `sd` is the standard deviation of `mean` over algorithms
    (for perplexities, a factor). `distinct` is how many different sets of masks the algorithms found.
    """
    cells = done(frame)
    cells = cells.assign(**{outcome: metrics[outcome].of(cells) for outcome in OUTCOMES})
    parts = []
    for (objective, model, k), panel in groups(cells, ["objective", *STRATUM]):
        where = {"objective": objective, "model": model, "k": int(k)}
        parts += [_of_panel(panel, outcome, where) for outcome in OUTCOMES]
    rows = pd.concat(parts, ignore_index=True)
    first = ["outcome", "objective", *STRATUM, "algo", "cells", "value", "variance"]
    return rows[[*first, *(column for column in rows if column not in first)]]


def _of_panel(panel: pd.DataFrame, outcome: str, where: Mapping[str, Any]) -> pd.DataFrame:
    searches = means(panel, [outcome]).rename(columns={outcome: "value"})
    whole, logs = compared(panel, [outcome])[0], outcome == "perplexity"
    values = np.log(whole[outcome]) if logs else whole[outcome]
    # In the same order as the rows of `means`.
    drawn = [over_draws(values[algo.index], CellDraws.of(algo)) for _, algo in groups(whole, "algo")]
    shown = pd.DataFrame([[d.mean, d.low, d.high] for d in drawn], columns=["mean", "low", "high"])
    rows = searches.drop(columns="masks").assign(
        outcome=outcome,
        **where,
        variance=_sd(searches["value"]) ** 2,
        searches=len(searches),
        distinct=searches["masks"].nunique(),
    )
    numbers = shown.assign(sd=_sd(shown["mean"]))
    return pd.concat([rows, numbers.map(np.exp) if logs else numbers], axis=1)


def _sd(values: pd.Series[float]) -> float:
    """The standard deviation (ddof 0); NaN for a single value."""
    return float(np.std(values)) if len(values) > 1 else float("nan")


def _build(study: AskedStudy, given: Namespace) -> Drawing:
    perplexity = choose(study.frame, "ppl", given.perplexity)
    metrics = {"perplexity": perplexity, "accuracy": choose(study.frame, "acc", given.accuracy)}
    searches = spread(study.frame, metrics)
    return Drawing(draw(searches, metrics), searches)


FIGURE = StudyFigure(
    name="fig3_variance",
    heading="How much the searches differ",
    build=_build,
    metrics=True,
    section="searches",
    caption="Each point is the mean of a search over calibration draws, with its 95 percent interval; perplexities "
    "are averaged geometrically. SD: the standard deviation over searches.",
)
