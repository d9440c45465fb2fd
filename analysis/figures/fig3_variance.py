"""Figure 3: the accuracy and perplexity of each search, and the variance of both over searches.

python -m analysis.fig3_variance --results results --study small

Source: figure 3 of arXiv 2604.24938. As in the paper, the variance over searches has ddof 0, and searches that found
equal masks are all counted. For the variance in brackets, searches with equal masks are counted once. Each point is
the mean of an algorithm over data and draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.load import done
from ..data.metrics import Metric, choose
from ..data.study import AskedStudy
from ..paper.published import MODELS, read
from ..stats.frames import each, groups, strata_of
from ..stats.grid import STRATUM
from ..stats.removal import bare, size
from ..stats.search_means import means
from .cli import arguments, run
from .style import empty, legend, looks, number, ordered, panels, plain_log, save

OUTCOMES = ("accuracy", "perplexity")


def spread(frame: pd.DataFrame, metrics: dict[str, Metric]) -> pd.DataFrame:
    """One row for each outcome, objective, model, k and algorithm, with the variance over algorithms."""
    cells = done(frame)
    cells = cells.assign(**{outcome: metrics[outcome].of(cells) for outcome in OUTCOMES})
    rows: list[list[object]] = []
    for (objective, model, k), panel in groups(cells, ["objective", *STRATUM]):
        searches = means(panel, list(OUTCOMES))
        once = searches.drop_duplicates("masks")
        for outcome in OUTCOMES:
            both = [float(np.var(m[outcome])) if len(m) > 1 else np.nan for m in (searches, once)]
            paper = _published(outcome, str(objective), str(model), int(k))
            for search in each(searches):
                value = float(getattr(search, outcome))
                where = [outcome, objective, model, int(k), search.algo, search.cells]
                rows.append([*where, value, *both, len(once), paper, search.draws_note])
    columns = [
        "outcome",
        "objective",
        "model",
        "k",
        "algo",
        "cells",
        "value",
        "variance",
        "distinct_variance",
    ]
    return pd.DataFrame(rows, columns=[*columns, "distinct", "published_variance", "draws_note"])


def _published(outcome: str, objective: str, model: str, k: int) -> float:
    table = read("figure3_variance")
    same = (table["model"] == MODELS.get(model)) & (table["k"] == k) & (table["objective"] == objective)
    rows = table[same & (table["outcome"] == f"average_{outcome}")]
    return float(rows["published_variance"].iloc[0]) if len(rows) else float("nan")


def draw(frame: pd.DataFrame, searches: pd.DataFrame, title: str, metrics: dict[str, Metric]) -> Figure:
    """One row of panels per outcome, one column per objective; in each panel, one strip per model and k."""
    objectives = sorted(frame["objective"].dropna().unique())
    strips = strata_of(frame)
    algos = ordered(searches["algo"])
    look = looks(algos)
    figure, grid = panels(2, len(objectives), max(2.2, 0.62 * len(strips)), 2.6, title)
    for i, outcome in enumerate(OUTCOMES):
        for j, objective in enumerate(objectives):
            axes = grid[i][j]
            axes.set_title(f"pruned for {objective}", fontsize=8.5)
            chosen = searches[(searches["outcome"] == outcome) & (searches["objective"] == objective)]
            _panel(axes, chosen, strips, look, outcome == "perplexity")
            unit = ", %" if outcome == "accuracy" else ""
            axes.set_ylabel(metrics[outcome].label + unit if j == 0 else "", fontsize=8)
    note = "σ²: variance over searches (ddof 0), equal masks counted each time; in brackets: counted once"
    legend(figure, look, note)
    return figure


def _panel(
    axes: Axes,
    chosen: pd.DataFrame,
    strips: list[tuple[str, int]],
    look: dict[str, tuple[str, str]],
    logarithmic: bool,
) -> None:
    if chosen.empty:
        empty(axes, "no finished cell")
        return
    for x, (model, k) in enumerate(strips):
        strip = chosen[(chosen["model"] == model) & (chosen["k"] == k)]
        offsets = np.linspace(-0.28, 0.28, len(strip)) if len(strip) > 1 else [0.0] * len(strip)
        for offset, point in zip(offsets, each(strip.sort_values("value")), strict=True):
            colour, marker = look[point.algo]
            axes.plot(x + offset, point.value, marker, color=colour, ms=4.5, mec="white", mew=0.4)
        axes.text(
            x, 1.0, _words(strip), transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=6.5
        )
    if logarithmic:
        axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.35 if logarithmic else high + 0.35 * (high - low))
    if logarithmic:
        plain_log(axes.yaxis)
    axes.set_xlim(-0.6, len(strips) - 0.4)
    axes.set_xticks(
        range(len(strips)),
        [f"{_short(model)}\n{size(model, k).replace(' = ', ' ')}" for model, k in strips],
        fontsize=6.5,
    )
    axes.tick_params(axis="y", labelsize=7)


def _short(model: str) -> str:
    """A model's name, on two lines if it is long."""
    if bare(model) != model:
        return model.replace(" (", "\n(").replace(", ", ",\n")
    return model if len(model) < 9 else model.replace("_", "\n", 1)


def _words(strip: pd.DataFrame) -> str:
    if strip.empty:
        return "missing"
    row = strip.iloc[0]
    if np.isnan(row["variance"]):
        return "one\nsearch"
    text = f"σ² {number(row['variance'])}\n({number(row['distinct_variance'])})"
    if row["draws_note"]:
        text += "\n" + str(row["draws_note"]).replace(" draws", "\ndraws")  # two lines: a strip is narrow
    return text if np.isnan(row["published_variance"]) else f"{text}\npaper {row['published_variance']:.1f}"


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
