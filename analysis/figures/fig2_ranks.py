"""Figure 2: rank by perplexity against rank by accuracy, one panel for each objective, model and k.

python -m analysis.fig2_ranks --results results --study small

Source: figure 2 of arXiv 2604.24938, which has only the objective perplexity. Each point is an algorithm. For
each metric, algorithms are ranked by their means over calibration data and draws. Rank 1 is best; tied algorithms get
the average of their ranks.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.load import done
from ..data.metrics import Metric, choose
from ..data.study import AskedStudy
from ..paper.published import MODELS, read
from ..stats.agreement import agree, controlled
from ..stats.frames import each, groups, strata_of
from ..stats.grid import STRATUM
from ..stats.removal import heading
from ..stats.search_means import means
from .cli import arguments, run
from .rank_agreement import table
from .style import empty, legend, looks, ordered, panels, probability, save, signed, wrapped


def ranks(frame: pd.DataFrame, perplexity: Metric, accuracy: Metric) -> pd.DataFrame:
    """One row per algorithm and panel: means, ranks, and the panel's Spearman correlation (p, q, interval, note).

    If several algorithms found the same masks in all cells, `distinct_spearman` counts these algorithms as one.
    """
    cells = done(frame)
    cells = cells.assign(perplexity=perplexity.of(cells), accuracy=accuracy.of(cells))
    parts, correlations, once = [], [], []
    for (objective, model, k), panel in groups(cells, ["objective", *STRATUM]):
        ranked = _ranked(panel)
        correlations.append(agree(ranked["perplexity_rank"], ranked["accuracy_rank"]))
        distinct = ranked.drop_duplicates("masks")
        once.append(agree(distinct["perplexity_rank"], distinct["accuracy_rank"]).statistic)
        parts.append(ranked.drop(columns="masks").assign(objective=objective, model=model, k=int(k)))
    adjusted = controlled([a.p for a in correlations])
    for part, a, q, rho in zip(parts, correlations, adjusted, once, strict=True):
        part[["spearman", "p", "q", "low", "high", "distinct_spearman"]] = (
            a.statistic,
            a.p,
            q,
            a.low,
            a.high,
            rho,
        )
        part["note"] = a.note
    table = pd.concat(parts, ignore_index=True)
    first = ["objective", *STRATUM, "algo"]
    return table[[*first, *(c for c in table if c not in first)]]


def _ranked(panel: pd.DataFrame) -> pd.DataFrame:
    """Means and ranks of the searches of a panel."""
    searches = means(panel, ["perplexity", "accuracy"])
    # Searches with equal masks must tie. Sums in different orders differ in the last digits, so values are rounded.
    searches["perplexity_rank"] = searches["perplexity"].round(9).rank()
    searches["accuracy_rank"] = (-searches["accuracy"]).round(9).rank()
    return searches


def draw(frame: pd.DataFrame, searches: pd.DataFrame, title: str, labels: tuple[str, str]) -> Figure:
    """One row of panels per objective, one column per model and k."""
    objectives = sorted(frame["objective"].dropna().unique())
    columns = strata_of(frame)
    algos = ordered(searches["algo"])
    look = looks(algos)
    figure, grid = panels(len(objectives), len(columns), 1.75 + 0.06 * max(0, len(algos) - 8), 1.85, title)
    for i, objective in enumerate(objectives):
        for j, (model, k) in enumerate(columns):
            axes = grid[i][j]
            axes.set_title(heading(model, k) if i == 0 else "", fontsize=8.5)
            chosen = searches[
                (searches["objective"] == objective) & (searches["model"] == model) & (searches["k"] == k)
            ]
            _panel(axes, chosen, look, len(algos))
            if j == 0:
                axes.set_ylabel(f"pruned for {objective}\naccuracy rank", fontsize=8)
            if i == len(objectives) - 1:
                axes.set_xlabel("perplexity rank", fontsize=8)
    how = "p: exact up to 8 searches; q: false discovery rate controlled over the panels"
    legend(figure, look, f"rank 1 is best; {labels[0]} against {labels[1]}; {how}")
    return figure


def _panel(axes: Axes, chosen: pd.DataFrame, look: dict[str, tuple[str, str]], most: int) -> None:
    if chosen.empty:
        empty(axes, "no finished cell")
        return
    axes.plot([0.5, most + 0.5], [0.5, most + 0.5], color="0.85", lw=0.8, zorder=0)
    for offset, point in zip(_apart(chosen), each(chosen), strict=True):
        colour, marker = look[str(point.algo)]
        axes.plot(
            point.perplexity_rank + offset,
            point.accuracy_rank,
            marker,
            color=colour,
            ms=5.5,
            mec="white",
            mew=0.5,
        )
    ticks = range(1, most + 1, 1 if most < 10 else 3)
    axes.set(xlim=(0.3, most + 0.7), ylim=(1.35 * most + 0.5, 0.3), xticks=ticks, yticks=ticks)
    axes.text(
        0.03,
        0.03,
        _words(chosen.iloc[0]),
        transform=axes.transAxes,
        fontsize=6.8,
        va="bottom",
        linespacing=1.1,
    )


def _apart(chosen: pd.DataFrame) -> list[float]:
    """Small offsets, so that tied points are drawn side by side and not on top of each other."""
    ties = chosen.groupby(["perplexity_rank", "accuracy_rank"])
    order, size = ties.cumcount(), ties["algo"].transform("size")
    return [float(value) for value in 0.45 * (order - (size - 1) / 2)]


def _words(row: pd.Series[Any]) -> str:
    if row["note"]:
        return wrapped(str(row["note"]), 26, " ")
    interval = f" ({signed(row['low'])} to {signed(row['high'])})" if np.isfinite(row["low"]) else ""
    text = (
        f"ρ {signed(row['spearman'])}{interval}\n{probability('p', row['p'])}, {probability('q', row['q'])}"  # noqa: RUF001
    )
    text += f"\n{row['draws_note']}" if row["draws_note"] else ""
    published = read("figure2_ranks")
    same = published[(published["model"] == MODELS.get(row["model"])) & (published["k"] == row["k"])]
    if row["objective"] == "perplexity" and len(same):
        text += f", paper ρ {signed(same['published_spearman'].iloc[0])}"  # noqa: RUF001
    return text


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    perplexity, accuracy = choose(frame, "ppl", given.perplexity), choose(frame, "acc", given.accuracy)
    searches = ranks(frame, perplexity, accuracy)
    figure = draw(frame, searches, title, (perplexity.label, accuracy.label))
    return save(
        figure, searches, given.out, "fig2_ranks", {"fig2_agreement": table(frame, perplexity, accuracy)}
    )


def main() -> None:
    """Draw the figure for a results folder."""
    run("fig2_ranks", arguments("Rank by perplexity against rank by accuracy.", metrics=True), _write)
