"""Figure 8: how often other calibration samples would lead to another mask, and how many samples are enough.

python -m analysis fig8 --results results --study small

The figure is computed from the per-sample losses in the traces; no model is run. The left panel shows how often the
final decision of a search gives another mask if the calibration data are bootstrapped. The others show how often two
disjoint subsets of n samples give the same mask, and the Jaccard overlap of their two masks. Points are means over
cells, in percent; bars are 95 percent intervals over calibration draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.load import done
from ..data.study import AskedStudy
from ..stats import stability
from ..stats.crossed import Trace
from ..stats.grid import STRATUM, budgets, groups, size, strata_of
from ..stats.means import CellDraws, over_draws
from .cli import arguments, run
from .style import (
    COLOURS,
    LABEL,
    MARKERS,
    SMALL,
    TITLE,
    empty,
    legend,
    line_key,
    looks,
    ordered,
    panels,
    save,
)

WHERE = ["cell", *STRATUM, "objective", "calibration", "samples", "length", "draw", "algo"]
CURVES = {"pair": "two subsets,\nsame mask, %", "pair_overlap": "two subsets,\noverlap, %"}
LEVEL = 90  # percent: agreement that is called enough (see `stability.enough`)


def measure(frame: pd.DataFrame, traces: Mapping[str, Trace]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per cell (how often resamples give another mask, samples needed), and agreement for each cell and n."""
    rows, curves = [], []
    cells = done(frame)
    for (_, cell), budget in zip(cells.iterrows(), budgets(cells), strict=True):
        decision = stability.last_decision(traces[str(cell["cell"])], int(cell["k"]), budget)
        where = dict(cell[WHERE])
        if decision is None:
            rows.append(where | {"note": stability.refusal(traces[str(cell["cell"])])})
            continue
        other, overlap = stability.resampled(decision)
        curve = stability.curve(decision)
        curves.append(curve.assign(**where))
        sizes = {"candidates": len(decision.candidates), "resampled": decision.losses.shape[1]}
        enough = {"enough": stability.enough(curve), "enough_pair": stability.enough(curve, "pair")}
        rows.append(where | sizes | {"other_mask": other, "overlap": overlap} | enough | {"note": ""})
    first = [*WHERE, "candidates", "resampled", "other_mask", "overlap", "enough", "enough_pair", "note"]
    return pd.DataFrame(rows).reindex(columns=first), pd.concat(
        curves, ignore_index=True
    ) if curves else pd.DataFrame()


def draw(frame: pd.DataFrame, rows: pd.DataFrame, curves: pd.DataFrame, title: str) -> Figure:
    """One row of panels per objective: by algorithm on the left, over numbers of samples on the right."""
    objectives = sorted(rows["objective"].unique())
    strata = strata_of(rows)
    algos = ordered(rows["algo"])
    figure, grid = panels(len(objectives), 3, 2.75, 0.6 + 0.19 * max(6, len(algos)), title)
    for i, objective in enumerate(objectives):
        cells = rows[rows["objective"] == objective]
        asked = frame[frame["objective"] == objective]
        _resamples(grid[i][0], cells, asked, algos, strata)
        grid[i][0].set_title(f"pruned for {objective} · n = {_counted(cells)}", fontsize=TITLE, loc="left")
        lines = curves[curves["objective"] == objective] if len(curves) else curves
        for axes, (column, label) in zip(grid[i][1:], CURVES.items(), strict=True):
            _curves(axes, lines, strata, column)
            axes.set_ylabel(label, fontsize=LABEL - 0.5)
    for axes, label in zip(
        grid[-1], ["resamples with another mask, %", *["samples in a subset"] * 2], strict=True
    ):
        axes.set_xlabel(label, fontsize=LABEL)
    look = looks([f"{model}, {size(model, k)}" for model, k in strata])
    note = "means over cells, 95 % intervals over calibration draws; left: bootstrapped calibration samples; "
    note += f"right: two disjoint subsets of one draw, grey line: {LEVEL} %; "
    note += "overlap: Jaccard, 100 % if the masks are equal"
    note += "".join(f"; left out: {text}" for text in _left_out(rows))
    if (rows.groupby("objective")["samples"].nunique() > 1).any():
        note += "; cells with different numbers of samples are pooled"
    keys = [line_key("95 % interval", lw=1.2), line_key("missing", marker="x", ls="", ms=3.5, mew=0.7)]
    legend(figure, look, note, keys)
    return figure


def _counted(cells: pd.DataFrame) -> str:
    """How many cells and draws the means of a row of panels are over: `38 of 42 cells, 6 draws`."""
    known = cells[cells["other_mask"].notna()]
    draws = len(set(CellDraws.of(known).draw)) if len(known) else 0
    among = f" of {len(cells)}" if len(known) < len(cells) else ""
    return f"{len(known)}{among} cell{'s' * (len(cells) != 1)}, {draws} draw{'s' * (draws != 1)}"


def _left_out(rows: pd.DataFrame) -> list[str]:
    """How many cells of each objective have no numbers, and why."""
    lacking = rows[rows["other_mask"].isna()]
    return [
        f"{len(cells)} cell{'s' * (len(cells) != 1)} of {objective}, where {note}"
        for (objective, note), cells in groups(lacking, ["objective", "note"])
    ]


def _percent(values: pd.Series[float], cells: pd.DataFrame) -> tuple[float, float, float]:
    """The mean of shares in percent, with its interval, which is within 0 and 100."""
    drawn = over_draws(100 * values.astype(float), CellDraws.of(cells))
    low, high = np.clip([drawn.low, drawn.high], 0, 100)
    return drawn.mean, float(low), float(high)


def _resamples(
    axes: Axes, rows: pd.DataFrame, asked: pd.DataFrame, algos: list[str], strata: Sequence[tuple[str, int]]
) -> None:
    """Draw the means of finished cells. If a search has no value for a model and k, draw a cross."""
    for y, algo in enumerate(algos):
        wanted = set(strata_of(asked[asked["algo"] == algo]))
        if y:
            axes.axhline(y - 0.5, color="0.93", lw=0.6, zorder=0)
        for i, (model, k) in enumerate(strata):
            if (model, k) not in wanted:
                continue
            cells = rows[(rows["algo"] == algo) & (rows["model"] == model) & (rows["k"] == k)]
            height = y + 0.8 / len(strata) * (i - (len(strata) - 1) / 2)
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            if cells["other_mask"].isna().all():
                axes.plot(0, height, "x", color="0.6", ms=3, mew=0.7)
                continue
            mean, low, high = _percent(cells["other_mask"], cells)
            axes.plot([low, high], [height] * 2, color=colour, lw=1.0, alpha=0.7)
            axes.plot(mean, height, marker, color=colour, ms=4, mec="white", mew=0.4, ls="")
    axes.set(xlim=(-3, 103), ylim=(len(algos) - 0.5, -0.5), xticks=range(0, 101, 25))
    axes.set_yticks(range(len(algos)), algos, fontsize=SMALL + 0.5)
    axes.tick_params(axis="y", length=0)


def _curves(axes: Axes, lines: pd.DataFrame, strata: Sequence[tuple[str, int]], column: str) -> None:
    if lines.empty:
        empty(axes, "no last decision in the traces")
        return
    sizes = sorted(lines["n"].unique())
    for i, (model, k) in enumerate(strata):
        curve = lines[(lines["model"] == model) & (lines["k"] == k)]
        own = [n for n in sizes if (curve["n"] == n).any()]
        if not own:
            continue
        parts = [curve[curve["n"] == n] for n in own]
        means = np.array([_percent(part[column], part) for part in parts])
        x = np.array(own) * 2.0 ** (0.05 * (i - (len(strata) - 1) / 2))  # side by side
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axes.plot(x, means[:, 0], marker=marker, ms=4, color=colour, lw=1.1, mec="white", mew=0.4)
        axes.vlines(x, means[:, 1], means[:, 2], color=colour, lw=1.0, alpha=0.6)
    axes.axhline(LEVEL, color="0.75", lw=0.8, zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()
    axes.set(ylim=(-3, 103), yticks=range(0, 101, 25))


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    rows, curves = measure(frame, study.traces)
    return save(
        draw(frame, rows, curves, title), rows, given.out, "fig8_stability", {"fig8_stability_curves": curves}
    )


def main() -> None:
    """Draw the figure for a results folder."""
    run("fig8_stability", arguments("Stability under resampling of the calibration data."), _write)
