"""Figure 3: the accuracy and perplexity of each search, with intervals, and how much the searches differ.

python -m analysis fig3 --results results --study small

Source: figure 3 of arXiv 2604.24938. Each point is the mean of an algorithm over data and draws, its bar the 95
percent interval over draws; means of perplexities are geometric. Above each group stands the standard deviation over
searches (ddof 0): of accuracies in percentage points, of perplexities as a factor. In brackets, searches with equal
masks are counted once. As in the paper, the variances in the CSV are those of arithmetic means.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.load import Metric, choose, done
from ..data.study import AskedStudy
from ..paper.check import MODELS, read
from ..stats.grid import STRATUM, bare, each, groups, size, strata_of
from ..stats.means import CellDraws, compared, means, over_draws
from .cli import arguments, run
from .style import (
    LABEL,
    SMALL,
    TITLE,
    empty,
    factor,
    legend,
    line_key,
    looks,
    number,
    ordered,
    panels,
    plain_log,
    save,
)

TIMES = "\N{MULTIPLICATION SIGN}"


def draw(frame: pd.DataFrame, searches: pd.DataFrame, title: str, metrics: Mapping[str, Metric]) -> Figure:
    """One row of panels per outcome with one scale, one column per objective; in each panel, a group per stratum."""
    objectives = sorted(frame["objective"].dropna().unique())
    strips = strata_of(frame)
    look = looks(ordered(searches["algo"]))
    width = max(2.05 if len(objectives) > 3 else 2.4, 0.5 * len(strips))
    figure, grid = panels(2, len(objectives), width, 2.5, title)
    for i, outcome in enumerate(OUTCOMES):
        rows = searches[searches["outcome"] == outcome]
        limits = _limits(rows, outcome == "perplexity")
        for j, objective in enumerate(objectives):
            axes = grid[i][j]
            axes.set_title(f"pruned for {objective}" if i == 0 else "", fontsize=TITLE)
            _panel(axes, rows[rows["objective"] == objective], strips, look)
            _scale(axes, limits, outcome == "perplexity", named=j == 0)
            axes.set_xticks(range(len(strips)), [""] * len(strips))
            if i == len(OUTCOMES) - 1:
                _names(axes, strips)
        unit = ", %" if outcome == "accuracy" else ""
        grid[i][0].set_ylabel(metrics[outcome].label + unit, fontsize=LABEL)
    note = f"above: standard deviation over searches (accuracy: points; perplexity: {TIMES} a factor); "
    note += "in brackets: searches with equal masks counted once; perplexities: geometric means; "
    legend(figure, look, note + "bars: over calibration draws", [line_key("95 % interval", lw=1.2)])
    return figure


def _limits(rows: pd.DataFrame, logarithmic: bool) -> tuple[float, float]:
    """The range of all panels of a row, with room for the words above the points."""
    values = rows[["mean", "low", "high"]].to_numpy(float)
    values = np.log(values) if logarithmic else values
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    span = (high - low) or 1.0
    ends = np.array([low - 0.05 * span, high + 0.28 * span])
    low, high = np.exp(ends) if logarithmic else ends
    return float(low), float(high)


def _scale(axes: Axes, limits: tuple[float, float], logarithmic: bool, named: bool) -> None:
    axes.set_yscale("log" if logarithmic else "linear")
    axes.set_ylim(*limits)
    if logarithmic:
        plain_log(axes.yaxis)
    axes.tick_params(axis="y", labelleft=named)
    axes.grid(axis="y", color="0.92", lw=0.6)
    axes.set_axisbelow(True)


def _panel(
    axes: Axes, chosen: pd.DataFrame, strips: list[tuple[str, int]], look: dict[str, tuple[str, str]]
) -> None:
    if chosen.empty:
        empty(axes, "no finished cell")
        return
    offsets = dict(zip(look, np.linspace(-0.36, 0.36, len(look)) if len(look) > 1 else [0.0], strict=True))
    for x, (model, k) in enumerate(strips):
        strip = chosen[(chosen["model"] == model) & (chosen["k"] == k)]
        for point in each(strip):
            colour, marker = look[str(point.algo)]
            place = x + offsets[str(point.algo)]
            axes.plot([place, place], [point.low, point.high], color=colour, lw=1.0, alpha=0.7)
            axes.plot(place, point.mean, marker, color=colour, ms=4, mec="white", mew=0.4)
        above: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": SMALL - 0.5, "linespacing": 1.15}
        axes.text(x, 1.0, _words(strip), transform=axes.get_xaxis_transform(), **above)
    axes.set_xlim(-0.6, len(strips) - 0.4)


def _names(axes: Axes, strips: list[tuple[str, int]]) -> None:
    """Write the size below each group, and the model once below its groups."""
    axes.set_xticklabels([size(model, k).replace("≈ ", "≈") for model, k in strips])
    for model in dict.fromkeys(model for model, _ in strips):
        middle = float(np.mean([x for x, (other, _) in enumerate(strips) if other == model]))
        name = model if bare(model) == model else model.replace(" (", "\n(").replace(", ", ",\n")
        below: dict[str, Any] = {
            "xycoords": axes.get_xaxis_transform(),
            "textcoords": "offset points",
            "ha": "center",
        }
        axes.annotate(name, (middle, 0), (0, -15), va="top", fontsize=SMALL, annotation_clip=False, **below)


def _words(strip: pd.DataFrame) -> str:
    """How much the searches of a stratum differ."""
    if strip.empty:
        return "missing"
    row = strip.iloc[0]
    if np.isnan(row["sd"]):
        return "one\nsearch"
    text = "all\nequal" if row["distinct"] == 1 else f"{_shown(row, 'sd')}\n({_shown(row, 'distinct_sd')})"
    if row["draws_note"]:
        text += "\n" + str(row["draws_note"]).replace(" draws", "\ndraws")  # two lines: a group is narrow
    paper = row["published_variance"]
    return text if np.isnan(paper) else f"{text}\nvar {number(row['variance'])}\npaper {paper:.1f}"


def _shown(row: pd.Series[Any], name: str) -> str:
    return f"{TIMES}{factor(row[name])}" if row["outcome"] == "perplexity" else number(row[name])


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    metrics = {
        "perplexity": choose(frame, "ppl", given.perplexity),
        "accuracy": choose(frame, "acc", given.accuracy),
    }
    searches = spread(frame, metrics)
    return save(draw(frame, searches, title, metrics), searches, given.out, "fig3_variance")


def main() -> None:
    """Draw the figure for a results folder."""
    run("fig3_variance", arguments("Spread and variance across searches.", metrics=True), _write)


# The numbers of figure 3: means of each search with intervals over draws, and how much the searches differ.

OUTCOMES = ("accuracy", "perplexity")


def spread(frame: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """One row for each outcome, objective, model, k and algorithm.

    `value` is the arithmetic mean, and `variance` its variance over algorithms; in `distinct_variance`, algorithms
    with equal masks count once. `mean`, `low` and `high` are what is drawn, geometric for perplexities. `sd` and
    `distinct_sd` are its standard deviations over algorithms, for perplexities a factor.
    """
    cells = done(frame)
    cells = cells.assign(**{outcome: metrics[outcome].of(cells) for outcome in OUTCOMES})
    parts = []
    for (objective, model, k), panel in groups(cells, ["objective", *STRATUM]):
        where = {"objective": objective, "model": model, "k": int(k)}
        parts += [_of_panel(panel, outcome, where) for outcome in OUTCOMES]
    rows = pd.concat(parts, ignore_index=True)
    first = ["outcome", "objective", *STRATUM, "algo", "cells", "value", "variance", "distinct_variance"]
    return rows[[*first, *(column for column in rows if column not in first)]]


def _of_panel(panel: pd.DataFrame, outcome: str, where: Mapping[str, Any]) -> pd.DataFrame:
    searches = means(panel, [outcome]).rename(columns={outcome: "value"})
    whole, logs = compared(panel, [outcome])[0], outcome == "perplexity"
    values = np.log(whole[outcome]) if logs else whole[outcome]
    # In the order of `means`.
    drawn = [over_draws(values[algo.index], CellDraws.of(algo)) for _, algo in groups(whole, "algo")]
    shown = pd.DataFrame([[d.mean, d.low, d.high] for d in drawn], columns=["mean", "low", "high"])
    once = ~searches["masks"].duplicated()
    sds = {"sd": _sd(shown["mean"]), "distinct_sd": _sd(shown["mean"][once])}
    variances = {
        "variance": _sd(searches["value"]) ** 2,
        "distinct_variance": _sd(searches["value"][once]) ** 2,
    }
    paper = published_variance(outcome, where["objective"], where["model"], where["k"])
    rows = searches.drop(columns="masks").assign(outcome=outcome, **where, **variances)
    rows = rows.assign(distinct=int(once.sum()), published_variance=paper)
    numbers = shown.assign(**sds)
    return pd.concat([rows, numbers.map(np.exp) if logs else numbers], axis=1)


def _sd(values: pd.Series[float]) -> float:
    """The standard deviation (ddof 0); NaN for a single value, as there is nothing to differ."""
    return float(np.std(values)) if len(values) > 1 else float("nan")


def published_variance(outcome: str, objective: str, model: str, k: int) -> float:
    """The variance in figure 3 of the paper; NaN if the paper has none."""
    table = read("figure3_variance")
    same = (table["model"] == MODELS.get(model)) & (table["k"] == k) & (table["objective"] == objective)
    rows = table[same & (table["outcome"] == f"average_{outcome}")]
    return float(rows["published_variance"].iloc[0]) if len(rows) else float("nan")
