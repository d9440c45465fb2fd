"""Figure 7: how near the loss of each search gets to that of the best known mask, and at what cost.

depth-pruning figure fig7 --results results --study small [--cost seconds]

A thin line shows the progress of a search (mean over data and draws); the marker shows the end of the search, and its
bar the 95 percent interval over draws. A ring marks a search on the Pareto front: no other search has both a lower
cost and a lower loss. The unit of cost is scores, seconds, or block forwards. Block forwards are known only for the
end of a search. The cost of a score is counted even if another cell computed that score. Objectives for which every
search found the best known mask are not drawn, and the note names them.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.load import done
from ..data.study import AskedStudy
from ..stats import crossed, regret
from ..stats.crossed import Trace
from ..stats.grid import STRATUM, budgets, each, groups, heading, strata_of
from ..stats.means import CellDraws, compared, over_draws
from . import style
from .cli import Drawing, StudyFigure
from .style import GREY, Look, line_key, rows_of

# Units of losses; others have none, or depend on their parts.
UNITS = dict.fromkeys(("perplexity", "divergence", "margin", "uncertainty"), "nats per token")
UNITS |= {"accuracy": "share of items", "angular": "share of \N{GREEK SMALL LETTER PI}"}
COSTS = {"scores": "masks scored", "seconds": "seconds of a search alone", "forwards": "block forwards"}
GROUP = ["objective", *STRATUM]


def draw(curves: pd.DataFrame, ends: pd.DataFrame, title: str, cost: str) -> Figure:
    """One row of panels per objective, one column per model and k."""
    flat = ends.groupby("objective")["excess"].max()
    gone = sorted(flat.index[flat <= 0]) if (flat > 0).any() else []
    objectives, strata = sorted(set(ends["objective"]) - set(gone)), strata_of(ends)
    look = style.looks(style.ordered(ends["algo"]))
    figure, grid = style.panels(len(objectives), len(strata), 2.08, 1.75, title)
    for line, objective in zip(grid, objectives, strict=True):
        for axes, (model, k) in zip(line, strata, strict=True):
            where = {"objective": objective, "model": model, "k": k}
            _panel(axes, rows_of(ends, **where), rows_of(curves, **where), look, cost)
        unit = f"\nexcess loss{f', {UNITS[objective]}' if objective in UNITS else ''}"
        line[0].set_ylabel(f"pruned for {objective}{unit}", fontsize=style.LABEL - 0.5)
    for above, below, (model, k) in zip(grid[0], grid[-1], strata, strict=True):
        above.set_title(heading(model, k), fontsize=style.TITLE)
        below.set_xlabel(COSTS[cost], fontsize=style.LABEL)
    note = "excess: calibration loss above that of the best known mask; means and intervals over calibration draws"
    note += f"; not drawn, because every search found the best known mask: {', '.join(gone)}" if gone else ""
    keys = [
        line_key("best so far", lw=0.9, alpha=0.6),
        line_key("end, 95 % interval", lw=1.6, marker="o", ms=5, mec="white", mew=0.5),
        line_key("Pareto front", ls="", marker="o", mfc="none", mec="black", ms=9, mew=0.7),
    ]
    style.legend(figure, look, note, keys)
    return figure


def _panel(axes: Axes, ends: pd.DataFrame, curves: pd.DataFrame, look: Mapping[str, Look], cost: str) -> None:
    shown = ends.dropna(subset=[cost, "excess"])
    if shown.empty:
        style.empty(axes, "no finished cell" if ends.empty else f"no {COSTS[cost]}\nwere recorded")
        return
    # Searches with equal ends are drawn side by side and not on top of each other.
    ties = shown.groupby([shown[cost].round(6), shown["excess"].round(9)])
    order = ties.cumcount() - (ties["algo"].transform("size") - 1) / 2
    width = np.log(shown[cost].max() / shown[cost].min() + 1.0) * 0.06
    for row, x in zip(each(shown), shown[cost] * np.exp(width * order), strict=True):
        if cost in curves:
            line = rows_of(curves, algo=row.algo)
            axes.step(line[cost], line["excess"], color=look[row.algo][0], lw=0.9, alpha=0.6, where="post")
        style.interval(axes, x, row.excess, [row.low, row.high], look[row.algo], zorder=3)
        if getattr(row, f"front_{cost}"):
            axes.plot(x, row.excess, "o", mfc="none", mec="black", ms=9, mew=0.7, zorder=4)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    style.plain_log(axes.xaxis)
    # The ends of the searches and their bars set the limits, because a curve can start far above them.
    top = max(1.12 * float(np.nanmax(shown[["excess", "high"]])), 2 * float(shown["excess"].max()), 1e-3)
    axes.set_ylim(-0.08 * top, top)
    note = axes.text(0.97, 0.95, str(shown["draws_note"].iloc[0]), transform=axes.transAxes)
    note.set(ha="right", va="top", fontsize=style.SMALL, color=GREY)


# The numbers of the figure: the loss of each search above that of the best known mask, on its way and at its end.


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
        cost = costs[row.cell]
        curve = crossed.anytime(lines[row.cell], int(row.k), cost.masks, budget, losses[row.cell])
        excess = {"excess": curve["best"] - row.best, "seconds": curve["seconds"] + cost.start}
        steps[row.cell] = curve.assign(**excess)
    curves, ends = [], []
    for keys, panel in groups(known, GROUP):
        whole, note = compared(panel)
        for algo, searched in groups(whole, "algo"):
            where = dict(zip(GROUP, keys, strict=True)) | {"algo": algo}
            curves.append(_mean_curve([steps[cell] for cell in searched["cell"]]).assign(**where))
            ends.append(where | _end(searched) | {"draws_note": note})
    table = pd.DataFrame(ends)
    for unit in COSTS:
        table[f"front_{unit}"] = False
        for _, panel in groups(table, GROUP):
            front = crossed.pareto(list(panel[unit]), list(panel["excess"]))
            table.loc[panel.index, f"front_{unit}"] = front
    return pd.concat(curves, ignore_index=True), table


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
    ends = {"low": float(np.maximum(0.0, excess.low)), "high": excess.high, "draws": excess.draws}
    return {"cells": len(cells), **costs, "excess": excess.mean, **ends}


def _build(study: AskedStudy, given: Namespace) -> Drawing:
    curves, ends = measure(study.frame, study.traces, study.lines)
    return Drawing(draw(curves, ends, study.title, given.cost), ends, {"fig7_cost_curves": curves})


FIGURE = StudyFigure(
    name="fig7_cost",
    heading="Quality against cost",
    build=_build,
    cost=tuple(COSTS),
    section="searches",
    caption="Calibration loss above the best known mask against the number of masks scored, with 95 percent "
    "intervals over calibration draws. Rings mark the Pareto front.",
)
