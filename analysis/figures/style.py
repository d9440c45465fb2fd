"""The common style of all figures, and the function that writes the three files of a figure."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerBase
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pruning.core.storage import write_bytes, write_text

# Okabe and Ito's colours. Readers with any kind of colour blindness can distinguish them.
# If there are more than seven names, colours repeat and markers distinguish the names.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
GREY = "0.35"
# Sizes of type, in points: titles of panels, labels of axes, everything else. At 8.5 inches, which is the widest
# figure, the smallest type is still legible on a page of this project's documentation.
TITLE, LABEL, SMALL = 8.5, 8.0, 7.0
PAGE = 8.6  # width in inches of the widest figure
DASH = "\N{EN DASH}"  # stands for a missing number
LARGE = 1e6  # numbers of at least this size are shown with an exponent

# The paper's algorithms, in the order of the paper; others are listed after them. All figures use this order.
ORDER = (
    "one_shot",
    "greedy",
    "beam",
    "genetic",
    "bayesian",
    "cbo",
    "fast_block_select",
    "exhaustive",
)


def use_style() -> None:
    """Set fonts, sizes and colours of all figures, and a backend that needs no screen."""
    mpl.use("Agg")
    mpl.style.use(Path(__file__).parent / "style.mplstyle")


def ordered(names: Iterable[str]) -> list[str]:
    """Distinct names: first those in ORDER, then the others in alphabetical order."""
    distinct = {str(name) for name in names}
    return [n for n in ORDER if n in distinct] + sorted(distinct - set(ORDER))


def looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each name. No two names have the same pair of colour and marker."""
    pairs = [(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i in range(len(names))]
    return dict(zip(names, pairs, strict=True))


def panels(
    rows: int, columns: int, width: float, height: float, title: str
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a title line and equal panels of `width` by `height` inches (wider if the title needs room)."""
    width = max(width, 5.5 / columns)  # leaves room for the title line and the legend
    size = (0.3 + width * columns, 0.5 + height * rows)
    figure = Figure(figsize=size, layout="constrained")
    head(figure, title, size[0])
    return figure, [list(line) for line in figure.subplots(rows, columns, squeeze=False)]


def head(figure: Figure, title: str, width: float) -> None:
    """Draw the title line in grey at the left edge, wrapped to the width of the figure."""
    text = wrapped(title, int(width * 17))
    figure.suptitle(text, x=0.012, ha="left", fontsize=SMALL + 0.5, color=GREY)


def wrapped(text: str, limit: int, mark: str = " · ") -> str:
    """Wrap text at `mark` into lines of at most `limit` characters. Only a longer part is wrapped at its spaces."""
    lines: list[str] = []
    wrapper = textwrap.TextWrapper(limit, break_long_words=False, break_on_hyphens=False)
    for part in (line for long in text.split(mark) for line in wrapper.wrap(long)):
        if lines and len(lines[-1]) + len(mark) + len(part) <= limit:
            lines[-1] += mark + part
        else:
            lines.append(part)
    return "\n".join(lines)


def empty(axes: Axes, text: str) -> None:
    """Write in an empty panel the reason why nothing is drawn there."""
    axes.set_axis_off()
    shown = axes.text(0.5, 0.5, text, color="0.5", fontsize=SMALL, transform=axes.transAxes)
    shown.set(ha="center", va="center")


def plain_log(axis: Axis) -> None:
    """Label a log axis with plain numbers: 20, 50, 1,000. Set axis limits first. A wide range gets fewer labels."""
    low, high = axis.get_view_interval()
    subs = (1,) if high > 300 * low else (1, 2, 5) if high > 5 * low else (1, 1.5, 2, 3, 4, 5, 7)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.6g}" if v < LARGE else large(v)))
    axis.set_minor_formatter(NullFormatter())


def probability(name: str, value: float) -> str:
    """A probability as text, `p 0.03` or `p < 0.01`. If the value is missing, a dash replaces the number."""
    return f"{name} < 0.01" if value < 0.005 else f"{name} {DASH if math.isnan(value) else f'{value:.2f}'}"


def signed(value: float) -> str:
    """A correlation with two decimals. A negative correlation has a minus sign instead of a hyphen."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def large(value: float) -> str:
    """A large number in short form, such as the perplexity of a broken model: 1.4e8."""
    return f"{value:.2g}".replace("e+0", "e").replace("e+", "e")


def number(value: float) -> str:
    """A number with about three digits: 0.24, 5.31, 40.6, 373, 21,622, 1.4e8."""
    if math.isnan(value):
        return DASH
    if abs(value) >= LARGE:
        return large(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def factor(value: float) -> str:
    """A factor with two or three digits: 1.08, 2.4, 31. If the value is missing, a dash replaces the number."""
    if math.isnan(value) or value >= 1000:
        return number(value)
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def save(
    figure: Figure,
    drawn: pd.DataFrame,
    out: Path,
    name: str,
    others: Mapping[str, pd.DataFrame] | None = None,
) -> list[Path]:
    """Write the figure to NAME.png and NAME.pdf, the numbers drawn to NAME.csv, and `others` to files of their names.

    Returns the files.
    """
    out.mkdir(parents=True, exist_ok=True)
    for ending in ("pdf", "png"):
        # The file gets no date, so that the same results give the same bytes.
        metadata = {"CreationDate": None} if ending == "pdf" else {"Software": None}
        stream = io.BytesIO()
        figure.savefig(stream, format=ending, metadata=metadata)
        write_bytes(out / f"{name}.{ending}", stream.getvalue())
    tables = {name: drawn, **(others or {})}
    for title, table in tables.items():
        write_text(out / f"{title}.csv", table.to_csv(index=False))
    return [out / f"{name}.png", out / f"{name}.pdf", *(out / f"{title}.csv" for title in tables)]


# The legend below the panels of a figure: how to read it, the names, and further keys such as lines and bars.


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
