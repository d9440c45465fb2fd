"""The common style of all figures: colours, panels, points, legends, and numbers as text."""

from __future__ import annotations

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
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

Look = tuple[str, str]  # a colour and a marker

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
TIMES = "\N{MULTIPLICATION SIGN}"
LARGE = 1e6  # numbers of at least this size are shown with an exponent

# The paper's algorithms, in the order of the paper; others are listed after them. All figures use this order.
ORDER = ("one_shot", "greedy", "beam", "genetic", "bayesian", "cbo", "fast_block_select", "exhaustive")


def use_style() -> None:
    """Set fonts, sizes and colours of all figures, and a backend that needs no screen."""
    mpl.use("Agg")
    mpl.style.use(Path(__file__).parent / "style.mplstyle")


def ordered(names: Iterable[str]) -> list[str]:
    """Distinct names: first those in ORDER, then the others in alphabetical order."""
    distinct = {str(name) for name in names}
    return [n for n in ORDER if n in distinct] + sorted(distinct - set(ORDER))


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A colour and a marker for each name. No two names have the same pair of colour and marker."""
    pairs = [(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i in range(len(names))]
    return dict(zip(names, pairs, strict=True))


def rows_of(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows that have these values in the named columns."""
    chosen = pd.Series(True, frame.index)
    for name, value in values.items():
        chosen &= frame[name] == value
    return frame[chosen]


def panels(
    rows: int, columns: int, width: float, height: float, title: str
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a title line and equal panels of `width` by `height` inches (wider if the title needs room)."""
    width = max(width, 5.5 / columns)  # leaves room for the title line and the legend
    figure = sheet(0.3 + width * columns, 0.5 + height * rows, title)
    return figure, [list(line) for line in figure.subplots(rows, columns, squeeze=False)]


def sheet(width: float, height: float, title: str) -> Figure:
    """An empty figure, in inches, with a title line in grey at the left edge."""
    figure = Figure(figsize=(width, height), layout="constrained")
    text = wrapped(title, int(width * 17))
    figure.suptitle(text, x=0.012, ha="left", fontsize=SMALL + 0.5, color=GREY)
    return figure


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


def interval(
    axes: Axes, x: float, y: float, ends: Sequence[float], look: Look, sideways: bool = False, **marker: Any
) -> None:
    """Draw a point and the two `ends` of its interval: above and below it or, `sideways`, left and right of it."""
    colour, symbol = look
    along = ([x, x], list(ends)) if not sideways else (list(ends), [y, y])
    axes.plot(*along, color=colour, lw=1.2, alpha=0.7)
    look_of: dict[str, Any] = {
        "color": colour,
        "marker": symbol,
        "ms": 4.5,
        "mec": "white",
        "mew": 0.5,
        "ls": "",
    }
    axes.plot(x, y, **(look_of | marker))


def name_rows(axes: Axes, names: Sequence[str], named: bool = True) -> None:
    """Make room for a row for each name, from top to bottom. Without `named`, a panel to the left has the names."""
    axes.set(ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), names if named else [""] * len(names), fontsize=SMALL + 0.5)
    axes.tick_params(axis="y", length=0)


def hide_frame(axes: Axes) -> None:
    """Hide the lines around a panel and the marks of its ticks."""
    axes.tick_params(length=0, pad=2)
    for side in axes.spines.values():
        side.set_visible(False)


def plain_log(axis: Axis) -> None:
    """Label a log axis with plain numbers: 20, 50, 1,000. Set axis limits first. A wide range gets fewer labels."""
    low, high = axis.get_view_interval()
    subs = (1,) if high > 300 * low else (1, 2, 5) if high > 5 * low else (1, 1.5, 2, 3, 4, 5, 7)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.6g}" if v < LARGE else large(v)))
    axis.set_minor_formatter(NullFormatter())


# The legend below the panels of a figure: how to read it, the names, and further keys such as lines and bars.


def legend(figure: Figure, look: Mapping[str, Look], note: str, keys: Iterable[Any] = ()) -> None:
    """Add a legend under the panels, below a note on how to read the figure.

    `keys` are further entries, such as lines, bars and shades. They start a new row after the names.
    """
    names = [Line2D([], [], color=c, marker=m, ls="", ms=5.5, label=name) for name, (c, m) in look.items()]
    width, blank = figure.get_figwidth(), Line2D([], [], ls="", label=" ")
    parts = [part for part in (names, list(keys)) if part]
    longest = 0.42 + 0.062 * max(len(_label(entry)) for part in parts for entry in part)  # inches
    most = max(1, int((width - 0.2) / longest))
    rows: list[list[Any]] = []  # about equally long; short ones end with blank entries
    for part in parts:
        length = math.ceil(len(part) / math.ceil(len(part) / most))
        rows += [part[i : i + length] for i in range(0, len(part), length)]
    columns = max(map(len, rows))
    rows = [[*row, *[blank] * (columns - len(row))] for row in rows]
    entries = [row[column] for column in range(columns) for row in rows]  # a legend is filled by columns
    text = wrapped(note, int(width * 18), "; ")
    lines = len(rows) + 0.75 * (text.count("\n") + 1)
    figure.set_figheight(figure.get_figheight() + 0.17 * lines)  # the panels keep their height
    shown = figure.legend(
        handles=entries,
        labels=[_label(entry) for entry in entries],
        loc="outside lower center",
        ncols=columns,
        title=text,
        title_fontproperties={"size": SMALL},
        handletextpad=0.4,
        columnspacing=1.4,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
    )
    shown.get_title().set_color(GREY)


def _label(entry: Any) -> str:
    return str((entry[0] if isinstance(entry, tuple) else entry).get_label())


def line_key(label: str, **style: Any) -> Artist:
    """A legend entry for a line, a bar or a marker of the figure; in grey, unless `style` has a colour."""
    return Line2D([], [], label=label, **{"color": GREY, **style})


def shade_key(label: str, *colours: str) -> Patch | tuple[Patch, ...]:
    """A legend entry for a shade; with several colours, for the same shade of each, side by side."""
    patches = tuple(Patch(facecolor=colour, edgecolor="0.7", lw=0.5, label=label) for colour in colours)
    return patches if len(patches) > 1 else patches[0]


# Numbers as text.


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


def counted(n: int, noun: str) -> str:
    """A number and its noun, as in `1 cell` or `1,200 cells`."""
    return f"{n:,} {noun}{'s' * (n != 1)}"
