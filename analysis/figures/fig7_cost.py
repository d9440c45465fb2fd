"""Figure 7: how near the loss of each search gets to that of the best known mask, and at what cost.

python -m analysis.fig7_cost --results results --study small [--cost seconds]

A thin line shows the progress of a search (mean over data and draws); the marker shows the end of the
search. A ring marks a search on the Pareto front: no other search has both a lower cost and a lower loss. The unit of
cost is scores, seconds, or block forwards. Block forwards are known only for the end of a search. The cost of a score
is counted even if another cell computed that score.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.load import done
from ..data.study import AskedStudy
from ..stats import crossed
from ..stats.crossed import PROBLEM, Trace
from ..stats.frames import each, groups, strata_of
from ..stats.grid import STRATUM
from ..stats.removal import budgets, heading
from ..stats.search_means import compared
from .cli import arguments, run
from .legends import legend
from .style import empty, looks, ordered, panels, plain_log, save

COSTS = {"scores": "masks scored", "seconds": "seconds of evaluation", "forwards": "block forwards"}
GROUP = ["objective", *STRATUM]


def measure(frame: pd.DataFrame, traces: Mapping[str, Trace]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean curves (one row per step of a search) and ends (one row per search), for each objective, model and k."""
    cells = done(frame)
    known = crossed.best_known(cells, traces)
    steps = {}
    for _, problem in groups(known, PROBLEM):
        paid = crossed.seconds(traces[cell] for cell in problem["cell"])
        for row, budget in zip(each(problem), budgets(problem), strict=True):
            curve = crossed.anytime(traces[str(row.cell)], int(float(str(row.k))), paid, budget)
            steps[str(row.cell)] = _relative(curve, row)
    curves, ends = [], []
    for keys, panel in groups(known, GROUP):
        whole, note = compared(panel)
        for algo, searched in groups(whole, "algo"):
            where = dict(zip(GROUP, keys, strict=True)) | {"algo": algo}
            mean = _mean_curve([steps[cell] for cell in searched["cell"]])
            curves.append(mean.assign(**where))
            ends.append(where | _end(searched, mean) | {"draws_note": note})
    return pd.concat(curves, ignore_index=True), _fronts(pd.DataFrame(ends))


def _relative(curve: pd.DataFrame, row: Any) -> pd.DataFrame:
    """The curve with `excess`: the best loss so far minus that of the best known mask."""
    return curve.assign(excess=curve["best"] - row.best)


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


def _end(cells: pd.DataFrame, curve: pd.DataFrame) -> dict[str, float]:
    asked = cells["asked"].astype(float).mean()
    seconds = float(curve["seconds"].iloc[-1]) if len(curve) else float("nan")
    forwards = cells["block_forwards_alone"].astype(float).mean()
    excess = cells["regret"].mean()
    return {"cells": len(cells), "scores": asked, "seconds": seconds, "forwards": forwards, "excess": excess}


def _fronts(ends: pd.DataFrame) -> pd.DataFrame:
    for cost in COSTS:
        ends[f"front_{cost}"] = False
        for _, panel in groups(ends, GROUP):
            ends.loc[panel.index, f"front_{cost}"] = crossed.pareto(list(panel[cost]), list(panel["excess"]))
    return ends


def draw(curves: pd.DataFrame, ends: pd.DataFrame, title: str, cost: str) -> Figure:
    """One row of panels per objective, one column per model and k."""
    objectives = sorted(ends["objective"].unique())
    strata = strata_of(ends)
    look = looks(ordered(ends["algo"]))
    figure, grid = panels(len(objectives), len(strata), 1.8, 1.65, title)
    for i, objective in enumerate(objectives):
        for j, (model, k) in enumerate(strata):
            axes = grid[i][j]
            axes.set_title(heading(model, k) if i == 0 else "", fontsize=8.5)
            panel_ends, lines = (_of(frame, objective, model, k) for frame in (ends, curves))
            _panel(axes, panel_ends, lines, look, cost)
            axes.set_ylabel(f"pruned for {objective}\nexcess loss" if j == 0 else "", fontsize=8)
            axes.set_xlabel(COSTS[cost] if i == len(objectives) - 1 else "", fontsize=8)
    note = "excess: calibration loss above the best known mask; line: best so far; ring: Pareto front"
    legend(figure, look, note)
    return figure


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
        axes.plot(x, y, marker, color=colour, ms=5, mec="white", mew=0.5, zorder=3)
        if getattr(row, f"front_{cost}"):
            axes.plot(x, y, "o", mfc="none", mec="black", ms=9.5, mew=0.7, zorder=4)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    plain_log(axes.xaxis)
    axes.tick_params(labelsize=7)
    top = max(3 * float(shown["excess"].max()), 1e-3)
    # The ends of the searches set the limits, because a curve can start far above them.
    axes.set_ylim(-0.08 * top, top)
    if note := str(shown["draws_note"].iloc[0]):
        axes.text(0.97, 0.95, note, transform=axes.transAxes, ha="right", va="top", fontsize=6.5, color="0.4")


def _apart(shown: pd.DataFrame, cost: str) -> list[float]:
    """Factors on the cost, so that searches with equal ends are drawn side by side and not on top of each other."""
    ties = shown.groupby([shown[cost].round(6), shown["excess"].round(9)])
    order, size = ties.cumcount(), ties["algo"].transform("size")
    width = np.log(shown[cost].max() / shown[cost].min() + 1.0) * 0.06
    return [float(value) for value in np.exp(width * (order - (size - 1) / 2))]


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    curves, ends = measure(frame, study.traces)
    return save(
        draw(curves, ends, title, given.cost), ends, given.out, "fig7_cost", {"fig7_cost_curves": curves}
    )


def main() -> None:
    """Draw the figure for a results folder."""
    run("fig7_cost", arguments("Quality against cost.", cost=tuple(COSTS)), _write)
