"""The legend below the panels of a figure: how to read it, the names, and further keys such as lines and bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerBase
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from .style import GREY, SMALL, wrapped


def legend(
    figure: Figure, look: Mapping[str, tuple[str, str]], note: str = "", keys: Sequence[Artist] = ()
) -> None:
    """Add a legend under the panels, below a note on how to read the figure.

    `keys` are further entries, such as lines and bars. They start a new row after the names.
    """
    names: list[Artist] = [
        Line2D([], [], color=c, marker=m, ls="", ms=5.5, label=name) for name, (c, m) in look.items()
    ]
    columns, rows = _table([part for part in (names, list(keys)) if part], figure.get_figwidth())
    text = wrapped(note, int(figure.get_figwidth() * 18), "; ")
    lines = len(rows) + 0.75 * (text.count("\n") + 1 if text else 0)
    figure.set_figheight(figure.get_figheight() + 0.17 * lines)  # the panels keep their height
    shown = figure.legend(
        handles=[row[column] for column in range(columns) for row in rows],  # a legend is filled by columns
        loc="outside lower center",
        ncols=columns,
        title=text or None,
        title_fontproperties={"size": SMALL},
        handletextpad=0.4,
        columnspacing=1.4,
        handler_map={_Shades: _ShadesHandler()},
    )
    shown.get_title().set_color(GREY)


def _table(parts: Sequence[list[Artist]], width: float) -> tuple[int, list[list[Artist]]]:
    """The number of columns and the rows of entries, about equally long; short rows end with empty entries."""
    longest = 0.42 + 0.062 * max(len(str(entry.get_label())) for part in parts for entry in part)  # inches
    most = max(1, int((width - 0.2) / longest))
    lengths = [math.ceil(len(part) / math.ceil(len(part) / most)) for part in parts]
    rows = [part[i : i + n] for part, n in zip(parts, lengths, strict=True) for i in range(0, len(part), n)]
    columns = max(map(len, rows))
    return columns, [[*row, *(_blank() for _ in range(columns - len(row)))] for row in rows]


def _blank() -> Artist:
    return Line2D([], [], ls="", label=" ")


def line_key(label: str, **style: Any) -> Artist:
    """A legend entry for a line, a bar or a marker of the figure; in grey, unless `style` has a colour."""
    return Line2D([], [], label=label, **{"color": GREY, **style})


def shade_key(label: str, *colours: Any) -> Artist:
    """A legend entry for a shade; with several colours, for the same shade of each, side by side."""
    return _Shades(colours, label)


class _Shades(Patch):
    """A legend entry with one rectangle for each colour."""

    def __init__(self, colours: Sequence[Any], label: str) -> None:
        super().__init__(label=label)
        self.colours = colours


class _ShadesHandler(HandlerBase):
    def create_artists(
        self,
        legend: Legend,  # noqa: ARG002 (matplotlib passes it)
        orig_handle: Any,
        xdescent: float,
        ydescent: float,
        width: float,
        height: float,
        fontsize: float,  # noqa: ARG002
        trans: Any,
    ) -> list[Artist]:
        part = width / len(orig_handle.colours)
        look: dict[str, Any] = {"edgecolor": "0.7", "linewidth": 0.5, "transform": trans}
        return [
            Rectangle((i * part - xdescent, -ydescent), part, height, facecolor=colour, **look)
            for i, colour in enumerate(orig_handle.colours)
        ]
