"""Figure 8: how often other calibration samples would lead to another mask, and how many samples are enough.

python -m analysis.fig8_stability --results results --study small

The figure is computed from the per-sample losses in the traces; no model is run. The left panel shows how often the
final decision of a search gives another mask if the calibration data are bootstrapped. The right panel shows how
often two disjoint subsets of n samples give the same mask, and the overlap of their two masks (means over cells).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.load import done
from ..data.study import AskedStudy
from ..stats import stability
from ..stats.crossed import Trace
from ..stats.frames import strata_of
from ..stats.grid import STRATUM
from ..stats.removal import budgets, size
from .cli import arguments, run
from .legends import legend
from .style import COLOURS, MARKERS, empty, looks, ordered, panels, save

WHERE = ["cell", *STRATUM, "objective", "calibration", "draw", "algo"]


def measure(frame: pd.DataFrame, traces: Mapping[str, Trace]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per cell (how often resamples give another mask, samples needed), and agreement for each cell and n."""
    rows, curves = [], []
    cells = done(frame)
    for (_, cell), budget in zip(cells.iterrows(), budgets(cells), strict=True):
        decision = stability.last_decision(traces[str(cell["cell"])], int(cell["k"]), budget)
        where = dict(cell[WHERE])
        if decision is None:
            rows.append(where | {"note": "no last decision over equally weighted samples in the trace"})
            continue
        other, overlap = stability.resampled(decision)
        curve = stability.curve(decision)
        curves.append(curve.assign(**where))
        sizes = {"candidates": len(decision.candidates), "samples": decision.losses.shape[1]}
        enough = {"enough": stability.enough(curve), "enough_pair": stability.enough(curve, "pair")}
        rows.append(where | sizes | {"other_mask": other, "overlap": overlap} | enough | {"note": ""})
    first = [*WHERE, "candidates", "samples", "other_mask", "overlap", "enough", "enough_pair", "note"]
    return pd.DataFrame(rows).reindex(columns=first), pd.concat(
        curves, ignore_index=True
    ) if curves else pd.DataFrame()


def draw(frame: pd.DataFrame, rows: pd.DataFrame, curves: pd.DataFrame, title: str) -> Figure:
    """One row of panels per objective: dots by algorithm on the left, curves over sample numbers on the right."""
    objectives = sorted(rows["objective"].unique())
    strata = strata_of(rows)
    figure, grid = panels(len(objectives), 2, 3.4, 1.95, title)
    for i, objective in enumerate(objectives):
        cells = rows[rows["objective"] == objective]
        asked = frame[frame["objective"] == objective]
        _dots(grid[i][0], cells, asked, ordered(rows["algo"]), strata)
        lines = curves[curves["objective"] == objective] if len(curves) else curves
        _curves(grid[i][1], lines, strata)
        for axes in grid[i]:
            axes.set_title(f"pruned for {objective}", fontsize=8.5, loc="left")
    grid[-1][0].set_xlabel("resamples that choose another mask", fontsize=8)
    grid[-1][1].set_xlabel("calibration samples n", fontsize=8)
    look = looks([f"{model}, {size(model, k)}" for model, k in strata])
    note = "left: mean (large), cells (small), cross: missing; right: solid the same mask, dotted Jaccard overlap"
    legend(figure, look, note)
    return figure


def _dots(
    axes: Axes, rows: pd.DataFrame, asked: pd.DataFrame, algos: list[str], strata: list[tuple[str, int]]
) -> None:
    """Draw the values of finished cells. If a search has no value for a model and k, draw a cross."""
    for y, algo in enumerate(algos):
        wanted = set(strata_of(asked[asked["algo"] == algo]))
        if not wanted:
            axes.text(0, y, "not asked for", fontsize=6.5, color="0.5", va="center")
        for i, (model, k) in enumerate(strata):
            if (model, k) not in wanted:
                continue
            cells = rows[(rows["algo"] == algo) & (rows["model"] == model) & (rows["k"] == k)]
            values = cells["other_mask"].dropna()
            height = y + 0.19 * (i - (len(strata) - 1) / 2)
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            if values.empty:
                axes.plot(0, height, "x", color="0.6", ms=3, mew=0.7)
                continue
            axes.plot(
                values, [height] * len(values), marker, color=colour, ms=1.8, mec="none", alpha=0.5, ls=""
            )
            axes.plot(values.mean(), height, marker, color=colour, ms=4.5, mec="white", mew=0.5, ls="")
    axes.set(xlim=(-0.03, 1.03), ylim=(len(algos) - 0.4, -0.6))
    axes.set_yticks(range(len(algos)), algos, fontsize=7.5)


def _curves(axes: Axes, lines: pd.DataFrame, strata: list[tuple[str, int]]) -> None:
    if lines.empty:
        empty(axes, "no last decision in the traces")
        return
    for i, (model, k) in enumerate(strata):
        curve = lines[(lines["model"] == model) & (lines["k"] == k)]
        mean = curve.groupby("n")[["pair", "pair_overlap"]].mean()
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axes.plot(mean.index, mean["pair"], marker=marker, ms=3.5, color=colour, lw=1.2)
        axes.plot(mean.index, mean["pair_overlap"], ":", color=colour, lw=1.2)
    axes.axhline(0.9, color="0.8", lw=0.8, zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(lines["n"].unique()), [str(n) for n in sorted(lines["n"].unique())])
    axes.set(ylim=(-0.03, 1.03))
    axes.set_ylabel("agreement of two subsets", fontsize=8)


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    rows, curves = measure(frame, study.traces)
    return save(
        draw(frame, rows, curves, title), rows, given.out, "fig8_stability", {"fig8_stability_curves": curves}
    )


def main() -> None:
    """Draw the figure for a results folder."""
    run("fig8_stability", arguments("Stability under resampling of the calibration data."), _write)
