"""Figure 5: how much of each outcome's variance is due to the calibration, and how much to the search.

python -m analysis.fig5_variance_shares --results results --study small

The four outcomes are the mask (Jaccard distance), the calibration loss minus that of the dense model, the logarithm
of held-out perplexity, and accuracy. Variance components are computed within one model and one k. For the loss, they
are also computed within one objective, because losses of different objectives have no common unit. Bars are
95 percent intervals over calibration draws.
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
from ..data.metrics import choose
from ..data.study import AskedStudy
from ..stats.estimates import Shares
from ..stats.sources import CALIBRATION, RESIDUAL, SOURCES
from .cli import arguments, run
from .style import COLOURS, GREY, panels, save, wrapped
from .variance_shares import LOSS, across, measure, outcomes, ratio_text

PARTS = {"calibration": COLOURS[0], "search": COLOURS[1], "interaction": COLOURS[2]}
ROWS = [*PARTS, "", *(s.name for s in SOURCES), RESIDUAL]


def draw(by_outcome: dict[str, Shares], table: pd.DataFrame, title: str) -> Figure:
    """A panel for each outcome."""
    figure, grid = panels(1, len(by_outcome), 1.85, 3.5, title)
    for j, (label, shares) in enumerate(by_outcome.items()):
        axes = grid[0][j]
        ratios = f"ratio {ratio_text(shares.total_ratio)}"
        axes.set_title(f"{_two_lines(label)}\n{ratios}", fontsize=7.5, linespacing=1.3)
        _panel(axes, table[table["outcome"] == label].set_index("source"), shares.note, label == LOSS)
        axes.set_yticks(range(len(ROWS)), ROWS if j == 0 else [""] * len(ROWS), fontsize=7.5)
    reach = table[table["source"].isin(ROWS)]
    low, high = np.nanmin([-0.2, *reach["low"]]), np.nanmax([1.05, *reach["high"]])
    for axes in grid[0]:
        axes.set_xlim(max(-1.0, low - 0.05), min(2.0, high + 0.05))
    figure.supxlabel(
        "share of the variance within model and k; filled: permutation q at most 0.05 (false discovery rate; "
        'the row "rest" is not tested);\n'
        "ratio: calibration : search, the interaction on both sides; 95 percent intervals over calibration draws; "
        "shares are cut off at 0",
        fontsize=7,
        color=GREY,
    )
    return figure


def _two_lines(label: str) -> str:
    lines = wrapped(label, 22, " (").split("\n")
    return "\n".join([lines[0], *(f"({line}" for line in lines[1:])])


def _panel(axes: Axes, rows: pd.DataFrame, note: str, loss: bool) -> None:
    axes.axvline(0, color="0.75", lw=0.8)
    axes.axhline(len(PARTS), color="0.9", lw=0.8)
    for y, name in enumerate(ROWS):
        if not name:
            continue
        row: Any = rows.loc[name] if name in rows.index else {"share": np.nan, "df": 0}
        if np.isnan(row["share"]):
            axes.text(0.02, y, _absent(name, row, loss), fontsize=6.5, color="0.5", va="center")
            continue
        _point(axes, y, name, row)
    axes.set(ylim=(len(ROWS) - 0.4, -0.6), xticks=[0, 0.5, 1])
    axes.tick_params(axis="y", length=0)
    if note:
        lines = wrapped(note, 32, " ")
        axes.text(0.5, 0.71, lines, transform=axes.transAxes, fontsize=6.5, ha="center", va="center")


def _point(axes: Axes, y: int, name: str, row: Any) -> None:
    """Draw a share with its interval. If `name` is a source whose test is not significant, the point is hollow."""
    colour, part = PARTS.get(name, _colour(name)), name in PARTS
    strong = part or (not np.isnan(row["q"]) and row["q"] <= 0.05)
    if not np.isnan(row["low"]):
        axes.plot([row["low"], row["high"]], [y, y], color=colour, lw=2.2 if part else 1.3, alpha=0.6)
    axes.plot(row["share"], y, "o", color=colour, mfc=colour if strong else "white", ms=5.5 if part else 4.5)


def _absent(name: str, row: Any, loss: bool) -> str:
    """Why a source has no share."""
    if loss and name.startswith("objective"):
        return "no common unit"
    return "not varied" if row["df"] == 0 else "refused"


def _colour(name: str) -> str:
    if name in CALIBRATION:
        return PARTS["calibration"]
    return PARTS["search"] if name == "algorithm" else PARTS["interaction"]


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    finished = done(frame)
    answers = study.answers(choose(finished, "acc", given.accuracy).names)
    by_outcome, table = measure(finished, outcomes(finished, given.perplexity, given.accuracy), answers)
    return save(
        draw(by_outcome, table, title),
        table,
        given.out,
        "fig5_variance_shares",
        {"fig5_between": across(finished, outcomes(finished, given.perplexity, given.accuracy))},
    )


def main() -> None:
    """Draw the figure for a results folder."""
    run(
        "fig5_variance_shares",
        arguments("Shares of variance: calibration against search.", metrics=True),
        _write,
    )
