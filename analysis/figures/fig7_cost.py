"""Figure 7: how near the loss of each search gets to that of the best known mask, and at what cost.

python -m analysis fig7 --results results --study small [--cost seconds]

A thin line shows the progress of a search (mean over data and draws); the marker shows the end of the search, and its
bar the 95 percent interval over draws. A ring marks a search on the Pareto front: no other search has both a lower
cost and a lower loss. The unit of cost is scores, seconds, or block forwards. Block forwards are known only for the
end of a search. The cost of a score is counted even if another cell computed that score. Objectives for which every
search found the best known mask are not drawn, and the note names them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.load import done
from ..data.study import AskedStudy
from ..stats import crossed, regret
from ..stats.crossed import Trace
from ..stats.grid import STRATUM, budgets, each, groups, heading, strata_of
from ..stats.means import CellDraws, compared, over_draws
from .cli import arguments, run
from .style import GREY, LABEL, SMALL, TITLE, empty, legend, line_key, looks, ordered, panels, plain_log, save

# Units of losses; others have none, or depend on their parts.
UNITS = {
    "perplexity": "nats per token",
    "divergence": "nats per token",
    "margin": "nats per token",
    "uncertainty": "nats per token",
    "accuracy": "share of items",
    "angular": "share of \N{GREEK SMALL LETTER PI}",
}


def draw(curves: pd.DataFrame, ends: pd.DataFrame, title: str, cost: str) -> Figure:
    """One row of panels per objective, one column per model and k."""
    flat = ends.groupby("objective")["excess"].max()
    gone = sorted(flat.index[flat <= 0]) if (flat > 0).any() else []
    objectives = sorted(set(ends["objective"]) - set(gone))
    strata = strata_of(ends)
    look = looks(ordered(ends["algo"]))
    figure, grid = panels(len(objectives), len(strata), 2.08, 1.75, title)
    for i, objective in enumerate(objectives):
        for j, (model, k) in enumerate(strata):
            axes = grid[i][j]
            axes.set_title(heading(model, k) if i == 0 else "", fontsize=TITLE)
            panel_ends, lines = (_of(frame, objective, model, k) for frame in (ends, curves))
            _panel(axes, panel_ends, lines, look, cost)
            unit = f"\nexcess loss{f', {UNITS[objective]}' if objective in UNITS else ''}"
            axes.set_ylabel(f"pruned for {objective}{unit}" if j == 0 else "", fontsize=LABEL - 0.5)
            axes.set_xlabel(COSTS[cost] if i == len(objectives) - 1 else "", fontsize=LABEL)
    note = "excess: calibration loss above that of the best known mask; means and intervals over calibration draws"
    note += f"; not drawn, because every search found the best known mask: {', '.join(gone)}" if gone else ""
    legend(figure, look, note, _keys())
    return figure


def _keys() -> list[Artist]:
    return [
        line_key("best so far", lw=0.9, alpha=0.6),
        line_key("end, 95 % interval", lw=1.6, marker="o", ms=5, mec="white", mew=0.5),
        line_key("Pareto front", ls="", marker="o", mfc="none", mec="black", ms=9, mew=0.7),
    ]


def _of(frame: pd.DataFrame, objective: str, model: str, k: float) -> pd.DataFrame:
    return frame[(frame["objective"] == objective) & (frame["model"] == model) & (frame["k"] == k)]


def _panel(
    axes: Axes, ends: pd.DataFrame, curves: pd.DataFrame, look: Mapping[str, tuple[str, str]], cost: str
) -> None:
    shown = ends.dropna(subset=[cost, "excess"])
    if shown.empty:
        empty(axes, "no finished cell" if ends.empty else f"no {COSTS[cost]}\nwere recorded")
        return
    for row, apart in zip(each(shown), _apart(shown, cost), strict=True):
        colour, marker = look[str(row.algo)]
        if cost in curves:
            line = curves[curves["algo"] == row.algo]
            axes.step(line[cost], line["excess"], color=colour, lw=0.9, alpha=0.6, where="post")
        x, y = float(getattr(row, cost)) * apart, float(str(row.excess))
        axes.plot([x, x], [row.low, row.high], color=colour, lw=1.6, zorder=2)
        axes.plot(x, y, marker, color=colour, ms=5, mec="white", mew=0.5, zorder=3)
        if getattr(row, f"front_{cost}"):
            axes.plot(x, y, "o", mfc="none", mec="black", ms=9, mew=0.7, zorder=4)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    plain_log(axes.xaxis)
    # The ends of the searches and their bars set the limits, because a curve can start far above them.
    top = max(1.12 * float(np.nanmax(shown[["excess", "high"]])), 2 * float(shown["excess"].max()), 1e-3)
    axes.set_ylim(-0.08 * top, top)
    if note := str(shown["draws_note"].iloc[0]):
        axes.text(
            0.97, 0.95, note, transform=axes.transAxes, ha="right", va="top", fontsize=SMALL, color=GREY
        )


def _apart(shown: pd.DataFrame, cost: str) -> list[float]:
    """Factors on the cost, so that searches with equal ends are drawn side by side and not on top of each other."""
    ties = shown.groupby([shown[cost].round(6), shown["excess"].round(9)])
    order, size = ties.cumcount(), ties["algo"].transform("size")
    width = np.log(shown[cost].max() / shown[cost].min() + 1.0) * 0.06
    return [float(value) for value in np.exp(width * (order - (size - 1) / 2))]


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    curves, ends = measure(frame, study.traces, study.lines)
    return save(
        draw(curves, ends, title, given.cost), ends, given.out, "fig7_cost", {"fig7_cost_curves": curves}
    )


def main() -> None:
    """Draw the figure for a results folder."""
    run("fig7_cost", arguments("Quality against cost.", cost=tuple(COSTS)), _write)


# The numbers of figure 7: the loss of each search above that of the best known mask, on its way and at its end.

COSTS = {"scores": "masks scored", "seconds": "seconds of a search alone", "forwards": "block forwards"}
GROUP = ["objective", *STRATUM]


def measure(
    frame: pd.DataFrame, traces: Mapping[str, Trace], lines: Mapping[str, Trace]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean curves (one row per step of a search) and ends (one row per search), for each objective, model and k.

    `lines` are the `traces` with the partial scores of races, which also cost time.
    """
    cells = done(frame)
    losses = regret.mask_losses(cells, traces)
    known = regret.best_known(cells, traces, losses)
    known = known.join(regret.alone(known, lines))
    costs = regret.shared_costs(known, lines)
    steps = {}
    for row, budget in zip(each(known), budgets(known), strict=True):
        cost = costs[str(row.cell)]
        trace, k = lines[str(row.cell)], int(float(str(row.k)))
        curve = crossed.anytime(trace, k, cost.masks, budget, losses[str(row.cell)])
        excess = {"excess": curve["best"] - row.best, "seconds": curve["seconds"] + cost.start}
        steps[str(row.cell)] = curve.assign(**excess)
    curves, ends = [], []
    for keys, panel in groups(known, GROUP):
        whole, note = compared(panel)
        for algo, searched in groups(whole, "algo"):
            where = dict(zip(GROUP, keys, strict=True)) | {"algo": algo}
            curves.append(_mean_curve([steps[cell] for cell in searched["cell"]]).assign(**where))
            ends.append(where | _end(searched) | {"draws_note": note})
    return pd.concat(curves, ignore_index=True), _fronts(pd.DataFrame(ends))


def _mean_curve(curves: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The mean curve over cells, one row per number of scores. A curve that has ended keeps its final value."""
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return pd.DataFrame(columns=["scores", "seconds", "excess"])
    start = max(int(curve["scores"].iloc[0]) for curve in curves)
    at = np.arange(start, max(int(curve["scores"].iloc[-1]) for curve in curves) + 1)
    filled = [c.set_index("scores").reindex(range(1, at[-1] + 1)).ffill().loc[at] for c in curves]
    means = {name: np.mean([h[name].to_numpy() for h in filled], axis=0) for name in ("seconds", "excess")}
    return pd.DataFrame({"scores": at, **means})


def _end(cells: pd.DataFrame) -> dict[str, Any]:
    """Mean costs and mean excess of a search, with the interval of the excess over draws; it is at least 0."""
    named = {"scores": "asked", "seconds": "seconds_alone", "forwards": "forwards_alone"}
    costs = {cost: float(cells[column].astype(float).mean()) for cost, column in named.items()}
    excess = over_draws(cells["regret"], CellDraws.of(cells))
    ends = {
        "excess": excess.mean,
        "low": float(np.maximum(0.0, excess.low)),
        "high": excess.high,
        "draws": excess.draws,
    }
    return {"cells": len(cells), **costs, **ends}


def _fronts(ends: pd.DataFrame) -> pd.DataFrame:
    for cost in COSTS:
        ends[f"front_{cost}"] = False
        for _, panel in groups(ends, GROUP):
            ends.loc[panel.index, f"front_{cost}"] = crossed.pareto(list(panel[cost]), list(panel["excess"]))
    return ends
