"""Figure 9: what is gained by removing sub-layers instead of whole blocks, at the same share of the parameters.

depth-pruning figure fig9 --results results --study units

Each point is the mean difference of the held-out loss between the mask over sub-layers (or attentions, or MLPs) and
the mask over blocks of the same search, objective and samples, over the same windows; the line is its 95 % interval.
Left of zero, the sub-layers are better. The upper axis shows exp(difference), the factor of the perplexity.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pruning.core.mask import Mask
from pruning.core.records import read_done

from ..data.archive import NothingToRead, folder
from ..data.load import Metric, done, of_windows
from ..data.study import AskedStudy
from ..stats.grid import LATENCY, bare, compensated, each, groups
from ..stats.same_samples import paired, window_losses
from . import style
from .cli import Drawing, StudyFigure
from .style import Look, rows_of

SAME = [
    *("bare", "objective", "calibration", "samples", "length", "draw", "algo", "ratio"),
    *("compensation", "seed", "protect_first", "protect_last"),
]
LINE = ["algo", "ratio", "cost", "compensation"]
SIGN = {"sublayer": "attention and MLP apart", "attention": "attention only", "mlp": "MLP only"}


def compared(results: Path, frame: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """One row for each cell over sub-layers that has one partner over blocks: both masks and the paired difference.

    Partners have the same search, objective, samples, seed and compensation, and were measured on the same windows.
    Raises NothingToRead if there is no such pair with the losses of windows.
    """
    rows = list(_rows(results, done(frame).assign(bare=done(frame)["model"].map(bare)), metric))
    if not rows:
        raise NothingToRead(
            f"no cell over sub-layers has a partner over blocks with {metric.label} of each window: "
            "run unit=block,sublayer at the same ratio, or evaluate the cells again."
        )
    return pd.DataFrame(rows).sort_values(["model", "objective", "algo", "ratio", "unit"], ignore_index=True)


def _rows(results: Path, frame: pd.DataFrame, metric: Metric) -> Iterator[dict[str, Any]]:
    for same, cells in groups(frame, SAME):
        blocks = rows_of(cells, unit="block")
        for cell in each(cells[cells["unit"] != "block"]) if len(blocks) == 1 else ():
            both = [read_done(results / str(key)) for key in (cell.cell, blocks["cell"].iloc[0])]
            first, second = (window_losses(results, result, metric.names) for result in both)
            texts = [result["evaluation"].get("data", {}) for result in both]
            data = {tuple(digests.get(name) for name in metric.names) for digests in texts}
            if first is None or second is None or len(data) > 1 or len(first) != len(second):
                continue
            names = [" ".join(Mask.from_json(result["mask"]).names()) for result in both]
            difference = paired(first, second)
            yield {
                **dict(zip(["model", *SAME[1:]], same, strict=True)),
                "unit": cell.unit,
                "cost": cell.cost,
                "difference": difference.mean,
                "low": difference.low,
                "high": difference.high,
                "windows": difference.windows,
                "ppl": float(np.exp(first.mean())),
                "ppl_block": float(np.exp(second.mean())),
                "loss": both[0]["calibration"]["loss"],
                "loss_block": both[1]["calibration"]["loss"],
                "dropped": names[0],
                "dropped_block": names[1],
            }


def draw(rows: pd.DataFrame, title: str, metric: Metric) -> Figure:
    """A panel for each model and objective; a line for each search and ratio, with a point for each unit."""
    models, objectives = (list(dict.fromkeys(rows[name])) for name in ("model", "objective"))
    lines = list(dict.fromkeys(zip(*(rows[column] for column in LINE), strict=True)))
    look = style.looks([sign for unit, sign in SIGN.items() if unit in set(rows["unit"])])
    height = 1.15 + (0.16 + 0.13 * len(look)) * len(lines)
    figure, grid = style.panels(len(models), len(objectives), min(4.2, 8.4 / len(objectives)), height, title)
    ends = rows[["low", "high", "difference"]].to_numpy(float)
    low, high = min(0.0, np.nanmin(ends)), max(0.0, np.nanmax(ends))
    margin = 0.06 * ((high - low) or 1.0)
    for row, model in zip(grid, models, strict=True):
        for axes, objective in zip(row, objectives, strict=True):
            cells = rows_of(rows, model=model, objective=objective)
            _panel(axes, cells, lines, look, (low - margin, high + margin), axes is row[0])
            axes.set_title(f"{model} · pruned for {objective}", fontsize=style.TITLE, loc="left")
    for axes in grid[-1]:
        axes.set_xlabel("held-out loss, this unit minus blocks, nats per token", fontsize=style.LABEL)
    note = "left of 0: better than whole blocks; upper axis: the same as a factor of the perplexity; means over n = "
    note += f"{int(rows['windows'].max())} windows of {metric.sets}, paired by window; one mask per point"
    style.legend(figure, look, note, [style.line_key("95 % interval over windows", lw=1.2)])
    return figure


def _panel(
    axes: Axes,
    rows: pd.DataFrame,
    lines: Sequence[tuple[str, float, str, str]],
    look: Mapping[str, Look],
    limits: tuple[float, float],
    named: bool,
) -> None:
    if rows.empty:
        style.empty(axes, "not run")
        return
    names = []
    for y, (algo, ratio, cost, how) in enumerate(lines):
        share = f"{100 * ratio:g} %{' of the time' * (cost == LATENCY)}"
        names.append(f"{algo}, {share} removed{compensated(how).replace(' ', chr(10))}")
        for row in each(rows_of(rows, algo=algo, ratio=ratio, cost=cost, compensation=how)):
            sign = SIGN[row.unit]
            height = y + 0.22 * (list(look).index(sign) - (len(look) - 1) / 2)
            style.interval(axes, row.difference, height, [row.low, row.high], look[sign], sideways=True)
    axes.axvline(0, color="0.6", lw=0.8, zorder=0)
    axes.set_xlim(limits)
    style.name_rows(axes, names, named)
    # An upper axis with the factors of the perplexity that the differences of the loss stand for.
    above = axes.secondary_xaxis("top", functions=(np.exp, lambda x: np.log(np.maximum(x, 1e-12))))
    above.set_xlabel("factor of the perplexity", fontsize=style.SMALL, color=style.GREY, labelpad=3)
    low, high = np.exp(axes.get_xlim())
    step = np.diff(MaxNLocator(5).tick_values(low, high))[0]
    ticks = 1 + step * np.arange(-10, 11)  # 1 is always a tick: it is where the units are equal
    above.set_xticks([t for t in ticks if low <= t <= high])
    above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{style.TIMES}{value:.4g}"))


def _build(study: AskedStudy, given: Namespace) -> Drawing:
    metric = of_windows(study.frame, given.perplexity)
    rows = compared(folder(study.results), study.frame, metric)
    return Drawing(draw(rows, study.title, metric), rows)


FIGURE = StudyFigure("fig9_units", "Sub-layers against whole blocks", _build, metrics=True)
