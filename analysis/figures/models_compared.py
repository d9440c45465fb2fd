"""The figure of `depth-pruning compare`: how good each model is over how fast it writes, and over its bytes."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from pruning.core.model_table import ModelTable
from pruning.core.records import kind_of, label_of, metrics_among

from . import style
from .cli import Drawing
from .style import GREY, INK

TITLE = "Quality over speed, and over bytes on disk"
PER_BYTE = "bits per byte"


def drawing(table: ModelTable) -> Drawing:
    """Two panels with a point for each model: bits per byte of the first text or, without texts, an accuracy."""
    numbers, label = measure(table)
    less = label.endswith(PER_BYTE)
    note = f"upright: 95 % intervals of the difference to {table.rows[0].name}; level: quartiles of the speed"
    figure, ((left, right),) = style.page(1, 2, 3.2, TITLE, note)
    _panel(left, numbers, "decode", "new tokens per second", (1, not less))
    _panel(right, numbers, "megabytes", "megabytes on disk", (0, not less))
    left.set_ylabel(label)
    return Drawing(figure, numbers)


def measure(table: ModelTable) -> tuple[pd.DataFrame, str]:
    """One row for each model, and the name of its quality."""
    rows, (first, *_) = [], table.rows
    accuracies = [metric for metric in metrics_among(first.metrics) if kind_of(metric) != "ppl"]
    metric = next(iter(first.bits), None) or accuracies[0]
    for row in table.rows:
        if metric in first.bits:
            value, error = row.bits[metric]["value"], row.bits[metric].get("difference_error")
        else:
            value, error = row.metrics[metric], row.changes.get(metric, {}).get("error")
            error = None if error is None else error / 100  # of percentage points
        rows.append(
            {"model": row.name, "quality": value, "error": error, "megabytes": row.disk / 1e6}
            | {
                "decode": row.decode["median"],
                "decode_low": row.decode["low"],
                "decode_high": row.decode["high"],
            }
        )
    label = PER_BYTE if metric in first.bits else label_of(metric)
    return pd.DataFrame(rows), f"{metric.partition('/')[2].replace('_', ' ')} {label}"


def _panel(axes: Axes, numbers: pd.DataFrame, across: str, label: str, better: tuple[int, int]) -> None:
    """Points with their names; `better` is the corner, as a share of the panel's width and height."""
    x, y = numbers[across], numbers["quality"]
    half = 2 * numbers["error"].astype(float).fillna(0.0)
    axes.set_xscale("log")
    style.dots(axes, x, y, (y - half, y + half), style.colour("perplexity"), upright=True)
    if f"{across}_low" in numbers:
        ends = numbers[f"{across}_low"], numbers[f"{across}_high"]
        axes.hlines(y, *ends, color=style.colour("perplexity"), lw=1.1, alpha=0.6)
    low, high = float(x.min()), float(x.max())
    axes.set_xlim(low / 1.5, high * 1.5)
    axes.margins(y=0.25)
    for name, across_at, up_at in zip(numbers["model"], x, y, strict=True):
        left = across_at * across_at > low * high  # names stand where the panel has room
        text = axes.annotate(
            name, (across_at, up_at), xytext=(-5 if left else 5, 4), textcoords="offset points"
        )
        text.set(ha="right" if left else "left", color=INK, fontsize=style.SMALL, in_layout=False)
    corner = axes.text(
        0.98 if better[0] else 0.02, 0.97 if better[1] else 0.03, "better", transform=axes.transAxes
    )
    corner.set(
        color=GREY, style="italic", ha="right" if better[0] else "left", va="top" if better[1] else "bottom"
    )
    axes.plot(*better, "s", ms=9, color=GREY, alpha=0.5, transform=axes.transAxes, clip_on=True)
    axes.set_xlabel(label)
    style.plain_log(axes.xaxis)
