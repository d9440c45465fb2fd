"""Figure 5: how much of each outcome's variance is due to the calibration, and how much to the search.

python -m analysis.fig5_variance_shares --results results --study small

The four outcomes are the mask (Jaccard distance), the calibration loss minus that of the dense model, the logarithm
of held-out perplexity, and accuracy. Variance components are computed within one model and one k. For the loss, they
are also computed within one objective, because losses of different objectives have no common unit. Bars are
95 percent intervals over calibration draws. Shares are in percent, cut off at 0 and 100; the CSV also has the
components, which can be negative. Sources that the study did not vary have no row.
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
from ..data.metrics import choose, names
from ..data.study import AskedStudy
from ..stats.estimates import IntervalEstimate, Shares
from ..stats.sources import CALIBRATION, RESIDUAL, SOURCES
from .cli import arguments, run
from .legends import legend, line_key
from .ratio_words import percent_text, upper_ends
from .style import COLOURS, GREY, SMALL, TITLE, panels, save, wrapped
from .variance_shares import LOSS, UNKNOWN, across, measure, outcomes, ratio_text

PARTS = {"calibration": COLOURS[0], "search": COLOURS[1], "interaction": COLOURS[2]}
RATIOS = {"cal : search": "total_ratio", "obj : search": "objective_ratio", "obj : draw": "objective_draw"}
LEVEL = 0.05  # of q


def draw(by_outcome: dict[str, Shares], table: pd.DataFrame, title: str) -> Figure:
    """A panel for each outcome, with one row for each part and each source that some outcome has."""
    rows = _rows(table)
    figure, grid = panels(1, len(by_outcome), 2.1, 1.15 + 0.235 * len(rows), title)
    for j, (label, shares) in enumerate(by_outcome.items()):
        axes = grid[0][j]
        axes.set_title(_heading(label, shares), fontsize=SMALL + 0.5, linespacing=1.35, loc="left")
        _panel(axes, rows, table[table["outcome"] == label].set_index("source"), shares.note, label == LOSS)
        axes.set_yticks(range(len(rows)), rows if j == 0 else [""] * len(rows), fontsize=TITLE - 1)
        axes.set_xlabel("share of variance, %", fontsize=SMALL + 0.5)
    keys = [
        line_key("sum of sources", marker="s", ls="", ms=5.5),
        line_key(f"q at most {LEVEL}", marker="o", ls="", ms=5),
        line_key("q larger", marker="o", ls="", ms=5, mfc="white"),
        line_key("not tested", marker="|", ls="", ms=8, mew=1.8),
        line_key("95 % interval", lw=1.3),
    ]
    note = "share of the variance within model and k; intervals over calibration draws; shares are cut off at 0 and "
    note += "100 %; q: permutation test, false discovery rate controlled; "
    legend(
        figure,
        {},
        note + "ratios: calibration (cal), objective (obj), with interactions on both sides of ': search'",
        keys,
    )
    return figure


def _rows(table: pd.DataFrame) -> list[str]:
    """The parts, an empty row, and the sources that have a share in some outcome."""
    known = set(table.loc[table["share"].notna(), "source"])
    return [*PARTS, "", *(name for name in (*(s.name for s in SOURCES), RESIDUAL) if name in known)]


def _heading(label: str, shares: Shares) -> str:
    first, *rest = wrapped(label, 22, " (").split("\n")
    name = "\n".join([first, *(f"({line}" for line in rest)]) if rest else f"{first}\n"
    ratios: dict[str, IntervalEstimate] = {pair: getattr(shares, name) for pair, name in RATIOS.items()}
    known = [pair for pair, ratio in ratios.items() if not np.isnan([ratio.low, ratio.value]).all()]
    lines = [f"{pair} {ratio_text(ratios[pair])}" for pair in known]
    ends = {part: end for pair in known for part, end in upper_ends(shares, RATIOS[pair]).items()}
    bounds = [f"{part} at most {percent_text(end)} %" for part, end in ends.items()]
    return "\n".join([name, *lines, *bounds])


def _panel(axes: Axes, names: list[str], rows: pd.DataFrame, note: str, loss: bool) -> None:
    axes.axhline(len(PARTS), color="0.9", lw=0.8)
    for y, name in enumerate(names):
        if not name:
            continue
        row: Any = rows.loc[name] if name in rows.index else {"share": np.nan, "df": 0}
        if np.isnan(row["share"]):
            axes.text(2, y, _absent(name, row, loss), fontsize=SMALL, color="0.5", va="center")
            continue
        _point(axes, y, name, row)
    axes.set(xlim=(-3, 106), ylim=(len(names) - 0.4, -0.6), xticks=[0, 25, 50, 75, 100])
    axes.grid(axis="x", color="0.93", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    if note:
        middle: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.transAxes}
        axes.text(0.5, 0.75, wrapped(note, 30, " "), fontsize=SMALL, color=GREY, **middle)


def _point(axes: Axes, y: int, name: str, row: Any) -> None:
    """Draw a share with its interval. The marker says whether the source was tested, and with which result."""
    colour = PARTS.get(name, _colour(name))
    share, low, high = (100 * row[column] for column in ("share", "low", "high"))
    if not np.isnan(low):
        axes.plot([low, high], [y, y], color=colour, lw=2.2 if name in PARTS else 1.3, alpha=0.6)
    axes.plot(share, y, color=colour, ls="", clip_on=False, **_marker(name, row))


def _marker(name: str, row: Any) -> dict[str, Any]:
    if name in PARTS:
        return {"marker": "s", "ms": 5.5}
    if np.isnan(row["q"]):
        return {"marker": "|", "ms": 8, "mew": 1.8}
    return {"marker": "o", "ms": 5} | ({} if row["q"] <= LEVEL else {"mfc": "white"})


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
    known = given.accuracy or names(finished, "acc")
    answers = study.answers(choose(finished, "acc", given.accuracy).names) if known else UNKNOWN
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
