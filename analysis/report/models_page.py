"""One self-contained HTML page of `depth-pruning compare`: the table of models and a figure.

The figure shows the quality of each model against its speed, and against its bytes on disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from pruning.core.model_table import ModelTable
from pruning.core.records import kind_of, label_of, leaves, metrics_among
from pruning.core.storage import write_text

from ..figures import style
from ..figures.cli import Drawing, save
from ..figures.style import GREY, INK
from . import study_data
from .page import embedded, inlined

NAME = "models"
TITLE = "Quality over speed, and over bytes on disk"


def write(folder: Path) -> Path:
    """Draw the figure and the page of the record in `folder`, save both there, and return the page's path."""
    style.use_style()
    table = ModelTable.read(folder)
    drawn = drawing(table)
    save(drawn, folder, NAME, TITLE)
    columns, page = table.columns(), folder / f"{NAME}.html"
    text = (
        study_data.templates()
        .get_template("models.html.j2")
        .render(
            first=table.rows[0].name,
            models=table.rows,
            headings=[*columns],
            rows=[*zip(*columns.values(), strict=True)],
            notes=table.notes,
            figure=embedded(drawn.figure),
            title=TITLE,
            settings=[*leaves(table.evaluation, "eval."), *leaves(table.speed, "speed.")],
            style=inlined("report.css"),
        )
    )
    write_text(page, text)
    return page


def drawing(table: ModelTable) -> Drawing:
    """Two panels with a point per model: its bits per byte of the first text or, without texts, accuracy."""
    first = table.rows[0]
    others = [metric for metric in metrics_among(first.metrics) if kind_of(metric) != "ppl"]
    metric = next(iter(first.bits), None) or others[0]
    rows = []
    for row in table.rows:
        if metric in first.bits:
            value, error = row.bits[metric]["value"], row.bits[metric].get("difference_error")
        else:
            value, error = row.metrics[metric], row.changes.get(metric, {}).get("error")
            error = None if error is None else error / 100  # from percentage points
        numbers = {"model": row.name, "quality": value, "error": error, "megabytes": row.disk / 1e6}
        rows.append(numbers | {f"decode_{end}": row.decode[end] for end in ("median", "low", "high")})
    frame = pd.DataFrame(rows)
    note = f"upright: 95 % intervals of the difference to {first.name}; level: quartiles of the speed"
    figure, ((left, right),) = style.page(1, 2, 3.2, TITLE, note)
    high = metric not in first.bits  # whether a high value is better
    _panel(left, frame, "decode_median", "new tokens per second", ("right", "top" if high else "bottom"))
    left.hlines(frame["quality"], frame["decode_low"], frame["decode_high"], color=GREY, lw=0.8)
    _panel(right, frame, "megabytes", "megabytes on disk", ("left", "top" if high else "bottom"))
    left.set_ylabel(f"{metric.partition('/')[2]} {label_of(metric) if high else 'bits per byte'}")
    return Drawing(figure, frame)


def _panel(axes: Axes, frame: pd.DataFrame, across: str, label: str, better: tuple[str, str]) -> None:
    """Draw points with their names, and mark the corner `better`, where the best models are."""
    x, y, half = frame[across], frame["quality"], 2 * frame["error"].astype(float).fillna(0.0)
    axes.set_xscale("log")
    style.dots(axes, x, y, (y - half, y + half), style.colour("perplexity"), upright=True)
    low, high = float(x.min()), float(x.max())
    axes.set(xlim=(low / 1.5, high * 1.5), xlabel=label)
    axes.margins(y=0.25)
    for name, place, value in zip(frame["model"], x, y, strict=True):
        left = place**2 > low * high  # names are on the side where the panel has room
        near: dict[str, Any] = {
            "xytext": (-5 if left else 5, 4),
            "textcoords": "offset points",
            "in_layout": False,
        }
        near |= {"ha": "right" if left else "left", "color": INK, "fontsize": style.SMALL}
        axes.annotate(name, (place, value), **near)
    at = (float(better[0] == "right"), float(better[1] == "top"))
    axes.plot(*at, "s", ms=9, color=GREY, alpha=0.5, transform=axes.transAxes)
    inside: dict[str, Any] = {
        "xytext": ((7, -7)[int(at[0])], (7, -7)[int(at[1])]),
        "textcoords": "offset points",
    }
    axes.annotate("better", at, xycoords="axes fraction", ha=better[0], va=better[1], color=GREY, **inside)
    style.plain_log(axes.xaxis)
