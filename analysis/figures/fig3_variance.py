"""Figure 3: the accuracy and perplexity of each search, with intervals, and how much the searches differ.

depth-pruning figure fig3 --results results --study small

Source: figure 3 of arXiv 2604.24938. Each point is the mean of an algorithm over data and draws, its bar the 95
percent interval over draws; means of perplexities are geometric. Above each group stands the standard deviation over
searches (ddof 0): of accuracies in percentage points, of perplexities as a factor. In brackets, searches with equal
masks are counted once. As in the paper, the variances in the CSV are those of arithmetic means.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
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
from . import style
from .cli import Drawing, StudyFigure
from .style import TIMES, Look, rows_of

OUTCOMES = ("accuracy", "perplexity")


def draw(frame: pd.DataFrame, searches: pd.DataFrame, title: str, metrics: Mapping[str, Metric]) -> Figure:
    """One row of panels per outcome with one scale, one column per objective; in each panel, a group per stratum."""
    objectives, strips = sorted(frame["objective"].dropna().unique()), strata_of(frame)
    look = style.looks(style.ordered(searches["algo"]))
    width = max(2.05 if len(objectives) > 3 else 2.4, 0.5 * len(strips))
    figure, grid = style.panels(2, len(objectives), width, 2.5, title)
    for line, outcome in zip(grid, OUTCOMES, strict=True):
        rows, logarithmic = rows_of(searches, outcome=outcome), outcome == "perplexity"
        limits = _limits(rows, logarithmic)
        for axes, objective in zip(line, objectives, strict=True):
            _panel(axes, rows_of(rows, objective=objective), strips, look)
            axes.set_yscale("log" if logarithmic else "linear")
            axes.set_ylim(*limits)
            if logarithmic:
                style.plain_log(axes.yaxis)
            axes.tick_params(axis="y", labelleft=axes is line[0])
            axes.grid(axis="y", color="0.92", lw=0.6)
            axes.set_axisbelow(True)
            axes.set_xticks(range(len(strips)), [""] * len(strips))
        unit = ", %" if outcome == "accuracy" else ""
        line[0].set_ylabel(metrics[outcome].label + unit, fontsize=style.LABEL)
    for above, below, objective in zip(*grid, objectives, strict=True):
        above.set_title(f"pruned for {objective}", fontsize=style.TITLE)
        _names(below, strips)
    note = f"above: standard deviation over searches (accuracy: points; perplexity: {TIMES} a factor); "
    note += "in brackets: searches with equal masks counted once; perplexities: geometric means; "
    style.legend(
        figure, look, note + "bars: over calibration draws", [style.line_key("95 % interval", lw=1.2)]
    )
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


def _panel(
    axes: Axes, chosen: pd.DataFrame, strips: Sequence[tuple[str, int]], look: Mapping[str, Look]
) -> None:
    if chosen.empty:
        style.empty(axes, "no finished cell")
        return
    offsets = dict(zip(look, np.linspace(-0.36, 0.36, len(look)) if len(look) > 1 else [0.0], strict=True))
    for x, (model, k) in enumerate(strips):
        strip = rows_of(chosen, model=model, k=k)
        for point in each(strip):
            style.interval(
                axes, x + offsets[point.algo], point.mean, [point.low, point.high], look[point.algo], ms=4
            )
        above: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": style.SMALL - 0.5}
        axes.text(x, 1.0, _words(strip), transform=axes.get_xaxis_transform(), linespacing=1.15, **above)
    axes.set_xlim(-0.6, len(strips) - 0.4)


def _names(axes: Axes, strips: Sequence[tuple[str, int]]) -> None:
    """Write the size below each group, and the model once below its groups."""
    axes.set_xticklabels([size(model, k).replace("≈ ", "≈") for model, k in strips])
    for model in dict.fromkeys(model for model, _ in strips):
        middle = float(np.mean([x for x, (other, _) in enumerate(strips) if other == model]))
        name = model if bare(model) == model else model.replace(" (", "\n(").replace(", ", ",\n")
        below = axes.annotate(
            name, (middle, 0), (0, -15), xycoords=axes.get_xaxis_transform(), textcoords="offset points"
        )
        below.set(ha="center", va="top", fontsize=style.SMALL, annotation_clip=False)


def _words(strip: pd.DataFrame) -> str:
    """How much the searches of a stratum differ."""
    if strip.empty:
        return "missing"
    row = strip.iloc[0]
    if np.isnan(row["sd"]):
        return "one\nsearch"
    logs = row["outcome"] == "perplexity"
    every, once = (
        f"{TIMES}{style.factor(v)}" if logs else style.number(v) for v in (row["sd"], row["distinct_sd"])
    )
    text = "all\nequal" if row["distinct"] == 1 else f"{every}\n({once})"
    if row["draws_note"]:
        text += "\n" + str(row["draws_note"]).replace(" draws", "\ndraws")  # two lines: a group is narrow
    paper = row["published_variance"]
    return text if np.isnan(paper) else f"{text}\nvar {style.number(row['variance'])}\npaper {paper:.1f}"


# The numbers of the figure: means of each search with intervals over draws, and how much the searches differ.


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
    rows = searches.drop(columns="masks").assign(
        outcome=outcome,
        **where,
        variance=_sd(searches["value"]) ** 2,
        distinct_variance=_sd(searches["value"][once]) ** 2,
        distinct=int(once.sum()),
        published_variance=published_variance(outcome, **where),
    )
    numbers = shown.assign(sd=_sd(shown["mean"]), distinct_sd=_sd(shown["mean"][once]))
    return pd.concat([rows, numbers.map(np.exp) if logs else numbers], axis=1)


def _sd(values: pd.Series[float]) -> float:
    """The standard deviation (ddof 0); NaN for a single value, as there is nothing to differ."""
    return float(np.std(values)) if len(values) > 1 else float("nan")


def published_variance(outcome: str, objective: str, model: str, k: int) -> float:
    """The variance in figure 3 of the paper; NaN if the paper has none."""
    named = {"objective": objective, "model": MODELS.get(model), "k": k, "outcome": f"average_{outcome}"}
    rows = rows_of(read("figure3_variance"), **named)
    return float(rows["published_variance"].iloc[0]) if len(rows) else float("nan")


def _build(study: AskedStudy, given: Namespace) -> Drawing:
    perplexity = choose(study.frame, "ppl", given.perplexity)
    metrics = {"perplexity": perplexity, "accuracy": choose(study.frame, "acc", given.accuracy)}
    searches = spread(study.frame, metrics)
    return Drawing(draw(study.frame, searches, study.title, metrics), searches)


FIGURE = StudyFigure(
    name="fig3_variance",
    heading="How much the searches differ",
    build=_build,
    metrics=True,
    section="searches",
    caption="Each point is the mean of a search over calibration draws, with its 95 percent interval; perplexities "
    "are averaged geometrically. Above each group: the standard deviation over searches.",
)
