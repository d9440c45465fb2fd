"""Figure 9: what is gained by removing sub-layers instead of whole blocks, at the same share of the parameters.

python -m analysis fig9 --results results --study units

Each point is the mean difference of the held-out loss between the mask over sub-layers (or attentions, or MLPs) and
the mask over blocks of the same search, objective and samples, over the same windows; the line is its 95 % interval.
Left of zero, the sub-layers are better. The upper axis shows exp(difference), the factor of the perplexity.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pruning.core.mask import Mask
from pruning.core.records import DoneResult, read_done

from ..data.archive import NothingToRead, folder
from ..data.load import Metric, done, of_windows
from ..data.study import AskedStudy
from ..stats.grid import LATENCY, bare, compensated, groups
from ..stats.same_samples import paired, window_losses
from .cli import arguments, run
from .style import GREY, LABEL, SMALL, TITLE, empty, legend, line_key, looks, panels, save

SAME = [
    *("bare", "objective", "calibration", "samples", "length", "draw", "algo", "ratio"),
    *("compensation", "seed", "protect_first", "protect_last"),
]
LINE = ["algo", "ratio", "cost", "compensation"]
UNITS = ("sublayer", "attention", "mlp")
TIMES = "\N{MULTIPLICATION SIGN}"
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
        blocks = cells[cells["unit"] == "block"]
        for _, cell in cells[cells["unit"] != "block"].iterrows() if len(blocks) == 1 else ():
            both = [read_done(results / str(key)) for key in (cell["cell"], blocks["cell"].iloc[0])]
            first, second = (window_losses(results, result, metric.names) for result in both)
            data = {_texts(result, metric) for result in both}
            if first is None or second is None or len(data) > 1 or len(first) != len(second):
                continue
            names = [" ".join(Mask.from_json(result["mask"]).names()) for result in both]
            difference = paired(first, second)
            yield {
                **dict(zip(["model", *SAME[1:]], same, strict=True)),
                "unit": cell["unit"],
                "cost": cell["cost"],
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


def _texts(result: DoneResult, metric: Metric) -> tuple[str | None, ...]:
    """The digests of the texts that a cell was evaluated on."""
    known = result["evaluation"].get("data", {})
    return tuple(known.get(name) for name in metric.names)


def draw(rows: pd.DataFrame, title: str, metric: Metric) -> Figure:
    """A panel for each model and objective; a line for each search and ratio, with a point for each unit."""
    strata = list(dict.fromkeys(zip(rows["model"], rows["objective"], strict=True)))
    models = list(dict.fromkeys(model for model, _ in strata))
    objectives = list(dict.fromkeys(objective for _, objective in strata))
    lines = list(dict.fromkeys(zip(*(rows[column] for column in LINE), strict=True)))
    look = looks([SIGN[unit] for unit in UNITS if unit in set(rows["unit"])])
    height = 1.15 + (0.16 + 0.13 * len(look)) * len(lines)
    figure, grid = panels(len(models), len(objectives), min(4.2, 8.4 / len(objectives)), height, title)
    limits = rows[["low", "high", "difference"]].to_numpy(float).ravel()
    low, high = min(0.0, np.nanmin(limits)), max(0.0, np.nanmax(limits))
    margin = 0.06 * ((high - low) or 1.0)
    for i, model in enumerate(models):
        for j, objective in enumerate(objectives):
            axes = grid[i][j]
            cells = rows[(rows["model"] == model) & (rows["objective"] == objective)]
            _panel(axes, cells, lines, look, (low - margin, high + margin), named=j == 0)
            axes.set_title(f"{model} · pruned for {objective}", fontsize=TITLE, loc="left")
    for axes in grid[-1]:
        axes.set_xlabel("held-out loss, this unit minus blocks, nats per token", fontsize=LABEL)
    n = int(rows["windows"].max())
    note = "left of 0: better than whole blocks; upper axis: the same as a factor of the perplexity; "
    note += f"means over n = {n} windows of {metric.sets}, paired by window; one mask per point"
    legend(figure, look, note, [line_key("95 % interval over windows", lw=1.4)])
    return figure


def _panel(
    axes: Axes,
    rows: pd.DataFrame,
    lines: list[tuple[str, float, str, str]],
    look: dict[str, tuple[str, str]],
    limits: tuple[float, float],
    named: bool,
) -> None:
    if rows.empty:
        empty(axes, "not run")
        return
    for y, line in enumerate(lines):
        for _, row in rows[(rows[LINE] == list(line)).all(axis=1)].iterrows():
            names = list(look)
            colour, marker = look[SIGN[str(row["unit"])]]
            height = y + 0.22 * (names.index(SIGN[str(row["unit"])]) - (len(names) - 1) / 2)
            axes.plot([row["low"], row["high"]], [height, height], color=colour, lw=1.4, alpha=0.7)
            axes.plot(row["difference"], height, marker, color=colour, ms=5, mec="white", mew=0.6)
    axes.axvline(0, color="0.6", lw=0.8, zorder=0)
    axes.set(ylim=(len(lines) - 0.5, -0.5), xlim=limits)
    of_time = ("", " of the time")
    removed = [
        f"{algo}, {100 * ratio:g} %{of_time[cost == LATENCY]} removed{compensated(how).replace(' ', chr(10))}"
        for algo, ratio, cost, how in lines
    ]
    axes.set_yticks(range(len(lines)), removed if named else [""] * len(lines), fontsize=SMALL + 0.5)
    axes.tick_params(axis="y", length=0)
    _factors(axes)


def _factors(axes: Axes) -> None:
    """An upper axis with the factors of the perplexity that the differences of the loss stand for."""
    above = axes.secondary_xaxis("top", functions=(np.exp, lambda x: np.log(np.maximum(x, 1e-12))))
    above.set_xlabel("factor of the perplexity", fontsize=SMALL, color=GREY, labelpad=3)
    low, high = np.exp(axes.get_xlim())
    step = np.diff(MaxNLocator(5).tick_values(low, high))[0]
    ticks = 1 + step * np.arange(-10, 11)  # 1 is always a tick: it is where the units are equal
    above.set_xticks([t for t in ticks if low <= t <= high])
    above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{TIMES}{value:.4g}"))


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    metric = of_windows(study.frame, given.perplexity)
    rows = compared(folder(given.results), study.frame, metric)
    return save(draw(rows, study.title, metric), rows, given.out, "fig9_units")


def main() -> None:
    """Draw the figure for a results folder."""
    run("fig9_units", arguments("Sub-layers against whole blocks.", metrics=True), _write)
