"""Figure 6: what pruning for one objective costs in other outcomes, and the regret of each search.

python -m analysis.fig6_crossed --results results --study small

The paper has no such figure; it evaluates each mask only on tasks that match its objective. The upper part shows, for
each objective, the mean of each outcome over algorithms and draws (the geometric mean for perplexities). The lower
part shows the regret of each cell. Regret is the cell's calibration loss minus that of the best mask of the same size
that any cell of the same problem scored. The unit of regret is the standard error of the loss over the calibration
samples.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.load import done
from ..data.metrics import Metric, choose, names
from ..data.study import AskedStudy
from ..stats import crossed
from ..stats.crossed import Trace
from ..stats.frames import strata_of
from ..stats.grid import STRATUM
from ..stats.removal import heading
from .cli import arguments, run
from .legends import legend
from .style import empty, head, looks, number, ordered, save

PAGE = 8.5  # width in inches: wider figures are not readable in print


def outcomes(cells: pd.DataFrame) -> dict[str, pd.Series[Any]]:
    """Every measured perplexity and accuracy; accuracies are negated, so that lower is better."""
    by_name = {}
    for kind in ("ppl", "acc"):
        for name in names(cells, kind):
            values = Metric(kind, (name,)).of(cells)
            by_name[name] = values if kind == "ppl" else -values
    return by_name


def measure(frame: pd.DataFrame, traces: Mapping[str, Trace]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The crossed matrix, and every cell with its regret."""
    cells = done(frame)
    return matrix_of(cells), crossed.best_known(cells, traces)


def matrix_of(cells: pd.DataFrame) -> pd.DataFrame:
    """The mean of every outcome for each objective; see `crossed.matrix`."""
    return crossed.matrix(cells, outcomes(cells), names(cells, "ppl"))


def draw(frame: pd.DataFrame, matrix: pd.DataFrame, regrets: pd.DataFrame, title: str) -> Figure:
    """For each model and k, draw the matrix and, below it, the regrets by algorithm. A row fits a page's width."""
    strata = strata_of(matrix)
    shown = list(dict.fromkeys(matrix["outcome"]))
    objectives = sorted(matrix["objective"].unique())
    panel = max(1.75, 0.3 + 0.5 * len(shown))
    columns = min(len(strata), max(1, int((PAGE - 1.2) / panel)))
    rows, upper = math.ceil(len(strata) / columns), 0.75 + 0.26 * len(objectives)
    width = 1.2 + panel * columns
    figure = Figure(figsize=(width, 0.5 + rows * (upper + 2.3)), layout="constrained")
    head(figure, title, width)
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[upper, 2.3] * rows)
    algos = ordered(regrets["algo"])
    top = float(np.nanmax(regrets["regret_se"], initial=1.0))
    for i, (model, k) in enumerate(strata):
        above, below = grid[2 * (i // columns)][i % columns], grid[2 * (i // columns) + 1][i % columns]
        stratum = matrix[(matrix["model"] == model) & (matrix["k"] == k)]
        above.set_title(heading(model, k), fontsize=8.5)
        _matrix(above, stratum, objectives, shown, i % columns == 0)
        cells = regrets[(regrets["model"] == model) & (regrets["k"] == k)]
        asked = frame[(frame["model"] == model) & (frame["k"] == k)]
        _regrets(below, cells, asked, algos, objectives, i % columns == 0)
        below.set_xlim(-0.03 * top, 1.08 * top)
    for axes in grid[-2:, len(strata) - columns * (rows - 1) :].flat:
        axes.set_axis_off()
    note = "above: mean outcome of the masks pruned for each objective (perplexities: geometric mean); "
    note += "darker: worse in its column; bold: best; "
    note += "below: calibration loss above the best known mask, in its standard errors; "
    note += "mean (large), cells (small), cross: missing"
    legend(figure, looks(objectives), note)
    return figure


def _matrix(axes: Axes, stratum: pd.DataFrame, objectives: list[str], shown: list[str], named: bool) -> None:
    means = stratum.pivot(index="objective", columns="outcome", values="mean").reindex(objectives)[shown]
    logs = set(stratum.loc[stratum["geometric"], "outcome"])
    worse = means.apply(lambda values: np.log(values) if values.name in logs else values)
    worse -= worse.min()
    shade = (worse / worse.max().where(worse.max() > 0)).fillna(0.0)
    axes.pcolormesh(shade.to_numpy(), cmap="Blues", vmin=0, vmax=1.6, edgecolors="white", linewidth=1.5)
    for (i, j), value in np.ndenumerate(means.to_numpy()):
        text = "missing" if np.isnan(value) else number(abs(value))
        best = worse.to_numpy()[i, j] == 0
        axes.text(
            j + 0.5,
            i + 0.5,
            text,
            ha="center",
            va="center",
            fontsize=7.5,
            weight="bold" if best else "normal",
        )
    axes.set_ylim(len(objectives), 0)
    labels = [name.replace("/", "\n", 1).replace("_", "\n") for name in shown]
    axes.set_xticks(np.arange(len(shown)) + 0.5, labels, fontsize=6.5)
    labels = [f"for {objective}" for objective in objectives] if named else [""] * len(objectives)
    axes.set_yticks(np.arange(len(objectives)) + 0.5, labels, fontsize=7.5)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _regrets(
    axes: Axes,
    cells: pd.DataFrame,
    asked: pd.DataFrame,
    algos: list[str],
    objectives: list[str],
    named: bool,
) -> None:
    """Draw the regrets of finished cells. If a search has no finished cell for an objective, draw a cross."""
    if cells["regret_se"].notna().sum() == 0:
        empty(axes, "no finished cell")
        return
    for y, algo in enumerate(algos):
        wanted = set(asked.loc[asked["algo"] == algo, "objective"])
        if not wanted:
            axes.text(0, y, "not asked for", fontsize=6.5, color="0.5", va="center")
        for i, objective in enumerate(objectives):
            if objective not in wanted:
                continue
            chosen = cells[(cells["algo"] == algo) & (cells["objective"] == objective)]
            height = y + 0.22 * (i - (len(objectives) - 1) / 2)
            colour, marker = looks(objectives)[objective]
            if chosen.empty:
                axes.plot(0, height, "x", color="0.6", ms=3, mew=0.7)
                continue
            values = chosen["regret_se"]
            axes.plot(
                values, [height] * len(chosen), marker, color=colour, ms=2.2, alpha=0.45, mec="none", ls=""
            )
            axes.plot(values.mean(), height, marker, color=colour, ms=4.8, mec="white", mew=0.5)
    axes.set(ylim=(len(algos) - 0.4, -0.6))
    axes.set_xlabel(f"regret, SE ({_known(cells['exact'])})", fontsize=7.5)
    axes.set_yticks(range(len(algos)), algos if named else [""] * len(algos), fontsize=7.5)


def _known(exact: pd.Series[Any]) -> str:
    """Whether the best known mask is the best of all masks, or only the best of the scored masks."""
    return "exact" if exact.all() else "exact in part" if exact.any() else "best known"


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    choose(frame, "ppl")
    matrix, regrets = measure(frame, study.traces)
    columns = ["cell", *STRATUM, "objective", "calibration", "draw", "algo", "loss", "best", "exact"]
    drawn = regrets[[*columns, "regret", "regret_se", "relative_regret"]]
    return save(
        draw(frame, matrix, regrets, title), matrix, given.out, "fig6_crossed", {"fig6_crossed_regret": drawn}
    )


def main() -> None:
    """Draw the figure for a results folder."""
    run("fig6_crossed", arguments("Objectives against outcomes, and regret."), _write)
