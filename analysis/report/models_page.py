"""One self-contained HTML page of `depth-pruning compare`: the table of models and a figure.

The figure shows the quality of each model against its speed, and against its bytes on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

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
    """Two panels with a point per model."""
    note = f"upright: 95 % intervals of the difference to {table.rows[0].name}; level: quartiles of the speed"
    figure, (pair,) = style.page(1, 2, 3.2, TITLE, note)
    return Drawing(figure, draw(pair, table))


def draw(pair: Sequence[Axes], table: ModelTable) -> pd.DataFrame:
    """Draw quality (bits per byte of the first text, else an accuracy) against speed and against bytes on disk."""
    first, (left, right) = table.rows[0], pair
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
    high = metric not in first.bits  # whether a high value is better
    _panel(left, frame, "decode_median", "new tokens per second", ("right", "top" if high else "bottom"))
    left.hlines(frame["quality"], frame["decode_low"], frame["decode_high"], color=GREY, lw=0.8)
    _panel(right, frame, "megabytes", "megabytes on disk", ("left", "top" if high else "bottom"))
    left.set_ylabel(f"{metric.partition('/')[2]} {label_of(metric) if high else 'bits per byte'}")
    cast(Figure, left.figure).draw_without_rendering()  # places the axes
    for axes, across in ((left, "decode_median"), (right, "megabytes")):
        _name(axes, frame["model"], frame[across], frame["quality"])
    return frame


def _panel(axes: Axes, frame: pd.DataFrame, across: str, label: str, better: tuple[str, str]) -> None:
    """Draw points with their names, and mark the corner `better`, where the best models are."""
    x, y, half = frame[across], frame["quality"], 2 * frame["error"].astype(float).fillna(0.0)
    axes.set_xscale("log")
    style.dots(axes, x, y, (y - half, y + half), style.colour("perplexity"), upright=True)
    axes.set(xlim=(float(x.min()) / 1.5, float(x.max()) * 1.5), xlabel=label)
    axes.margins(y=0.25)
    at = (float(better[0] == "right"), float(better[1] == "top"))
    axes.plot(*at, "s", ms=9, color=GREY, alpha=0.5, transform=axes.transAxes)
    inside: dict[str, Any] = {
        "xytext": ((7, -7)[int(at[0])], (7, -7)[int(at[1])]),
        "textcoords": "offset points",
    }
    axes.annotate("better", at, xycoords="axes fraction", ha=better[0], va=better[1], color=GREY, **inside)
    style.plain_log(axes.xaxis)


# Names beside points. Where names would overlap, some stand farther away, with a line to their point.

DISTANCES = (5, 12, 20, 30, 42, 56, 72)  # points
SIDES = ((1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))


def _name(axes: Axes, names: Iterable[str], across: Iterable[float], up: Iterable[float]) -> None:
    """Write each name at the nearest place where it covers neither a point nor another name."""
    places = [(float(x), float(y)) for x, y in zip(across, up, strict=True)]
    taken = [Bbox.from_extents(*(at - 4), *(at + 4)) for at in axes.transData.transform(places)]
    inside = axes.get_window_extent()
    for name, place in zip(names, places, strict=True):
        for distance, (dx, dy) in product(DISTANCES, SIDES):
            text = axes.annotate(
                name,
                place,
                xytext=(dx * distance, dy * distance),
                textcoords="offset points",
                ha=("right", "center", "left")[dx + 1],
                va="center",
                color=INK,
                fontsize=style.SMALL,
                in_layout=False,
            )
            box = text.get_window_extent()
            fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            if fits and not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        else:
            continue  # the table has it
        taken.append(box)
        if distance > DISTANCES[0]:
            end = (text.xyann[0] * 0.9, text.xyann[1] * 0.9)
            line = {"arrowstyle": "-", "color": GREY, "lw": 0.4, "shrinkA": 0, "shrinkB": 2}
            axes.annotate("", place, xytext=end, textcoords="offset points", arrowprops=line)
