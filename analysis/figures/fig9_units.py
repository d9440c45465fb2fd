"""Figure 9: masks of sub-layers against masks of whole blocks that remove the same share of the parameters.

Each point is exp of the mean difference of two masks' losses over the same windows, with its 95 % interval.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pruning.core.mask import Mask
from pruning.core.records import read_done

from ..data.archive import NothingToRead
from ..data.load import Metric, choose, done
from ..data.study import AskedStudy
from ..stats.grid import LATENCY, bare, compensated, each, groups
from ..stats.same_samples import paired, window_losses
from . import style
from .cli import Drawing, StudyFigure
from .style import INK, LINE, Rows, named, rows_of

SAME = [
    *("bare", "objective", "calibration", "samples", "length", "draw", "algo", "ratio"),
    *("compensation", "seed", "protect_first", "protect_last"),
]
SIGN = {"sublayer": "sub-layers", "attention": "attention only", "mlp": "MLPs only"}


def compared(results: Path, frame: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """One row for each sub-layer cell with exactly one partner over blocks: both masks, and their loss difference.

    Partners have the same search, objective, samples, seed and compensation, and were measured on the same windows.
    Raises NothingToRead if no such pair has stored losses per window.
    """
    rows = list(_rows(results, done(frame).assign(bare=done(frame)["model"].map(bare)), metric))
    if not rows:
        raise NothingToRead(
            f"no cell over sub-layers has a partner over blocks with {metric.label} of each window: "
            "run unit=block,sublayer at the same ratio, or evaluate the cells again."
        )
    return pd.DataFrame(rows).sort_values(["model", "objective", "algo", "ratio", "unit"], ignore_index=True)


def _rows(results: Path, frame: pd.DataFrame, metric: Metric) -> Iterator[dict[str, Any]]:
    for same, cells in groups(frame, SAME) if (frame["unit"] != "block").any() else ():
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


def draw(rows: pd.DataFrame, metric: Metric) -> Figure:
    """A panel for each model, with a group for each objective and a line for each unit, search and ratio."""
    models = list(dict.fromkeys(rows["model"]))
    rows = rows.assign(line=[_name(row) for row in each(rows)])
    names = style.objectives(rows["objective"])
    lines = Rows.of(
        {name: list(dict.fromkeys(rows_of(rows, objective=name)["line"])) for name in names}, True
    )
    note = (
        f"left of 1: better than whole blocks; {metric.label}; n = {int(rows['windows'].max())} windows of "
    )
    note += f"{metric.sets}, paired; lines: 95 % intervals over windows; one mask per point"
    title = "Sub-layers instead of whole blocks, at the same share removed"
    figure, panels = style.pages(len(models), 2, lines.height * LINE * 1.2 + 0.55, title, note)
    ends = np.exp(rows[["low", "high", "difference"]].to_numpy(float))
    low, high = min(0.98, float(np.nanmin(ends))), max(1.02, float(np.nanmax(ends)))
    for i, (axes, model) in enumerate(zip(panels, models, strict=True)):
        for row in each(rows_of(rows, model=model)):
            factors = [float(np.exp(value)) for value in (row.difference, row.low, row.high)]
            y, hue = lines.lines[row.objective, row.line], style.colour(row.objective)
            style.dots(axes, factors[0], y, (factors[1], factors[2]), hue)
        axes.axvline(1, color=INK, lw=0.8, zorder=0)
        axes.set_xscale("log")
        axes.set_xlim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
        style.plain_log(axes.xaxis)
        axes.set_xlabel("held-out perplexity, relative to whole blocks")
        axes.set_title(named(model))
        lines.name(axes, i % 2 == 0)
    return figure


def _name(row: Any) -> str:
    """The name of a line: its unit, search, ratio and compensation."""
    share = f"{100 * row.ratio:g} %{' of the time' * (row.cost == LATENCY)}"
    return f"{SIGN[row.unit]}, {named(row.algo)}, {share}{compensated(row.compensation)}"


def _build(study: AskedStudy, given: Namespace) -> Drawing:
    metric = choose(study.frame, "ppl", given.perplexity)
    rows = compared(study.results, study.frame, metric)
    return Drawing(draw(rows, metric), rows)


FIGURE = StudyFigure("fig9_units", "Sub-layers against whole blocks", _build, metrics=True)
