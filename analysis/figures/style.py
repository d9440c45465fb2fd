"""The common style of all figures: names, colours, pages of panels, rows, dots with intervals, numbers as text."""

from __future__ import annotations

import math
import textwrap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogFormatterMathtext,
    LogLocator,
    MaxNLocator,
    NullLocator,
)
from numpy.typing import ArrayLike

from ..stats.grid import bare, size

# The size of a page in inches. No figure is wider; one is higher only if its names would otherwise overlap.
PAGE, TALL = 7.0, 9.3
TITLE, SMALL = 8.0, 7.0  # size of type in points: for titles, and for everything else
LINE = 0.115  # inches between two lines of small type
GREY, INK = "0.4", "0.15"
DASH = "\N{EN DASH}"  # stands for a missing number
TIMES = "\N{MULTIPLICATION SIGN}"
LARGE = 1e6  # numbers of at least this size are shown with an exponent

# An objective has the same colour in every figure. The colours are Okabe and Ito's, which readers with any
# colour blindness can distinguish. Other objectives may share a colour, because all are labelled.
OBJECTIVES = {
    "perplexity": "#0072B2",
    "divergence": "#009E73",
    "margin": "#D55E00",
    "block_influence": "#AA4499",
    "answer": "#E69F00",
    "choice": "#56B4E9",
}
SPARE = ("#7A6A00", "#5B4B9A", "#8C510A", "#4D4D4D", "#01665E", "#B2476B")

# The units of losses. Losses of other objectives have no unit, or a unit that depends on their parts.
UNITS = dict.fromkeys(("perplexity", "divergence", "margin", "uncertainty", "answer", "choice"), " nats")

# The paper's algorithms, in the order of the paper; others are listed after them. All figures use this order.
ORDER = ("one_shot", "greedy", "beam", "genetic", "bayesian", "cbo", "fast_block_select", "exhaustive")

# Readable names. In all other names, a space replaces each underscore.
EVERY = "all searches"  # the common name of searches that found the same masks
NAMES = {
    "smollm2": "SmolLM2 135M",
    "gemma3_270m": "Gemma 3 270M",
    "llama3": "Llama 3 8B",
    "llama3_1": "Llama 3.1 8B",
    "llama3_2_1b": "Llama 3.2 1B",
    "mistral": "Mistral 7B",
    "qwen2_5_coder": "Qwen2.5-Coder 0.5B",
    "qwen_coder_1b": "Qwen2.5-Coder 1.5B",
    "qwen3": "Qwen3 8B",
    "qwen3_0_6b": "Qwen3 0.6B",
    "qwen3_1_7b": "Qwen3 1.7B",
    "one_shot": "one-shot",
    "fast_block_select": "fast block select",
    "cbo": "CBO",
    "cbo_hessian": "CBO, Hessian",
    "taylor": "Taylor",
    "taylor_plus": "Taylor+",
}


def use_style() -> None:
    """Set fonts, sizes and colours of all figures, and a backend that needs no screen."""
    mpl.use("Agg")
    mpl.style.use(Path(__file__).parent / "style.mplstyle")


def named(name: object) -> str:
    """The readable name of a model, search or objective. The rest of a label is unchanged."""
    first = bare(str(name))
    return NAMES.get(first, first.replace("_", " ")) + str(name).removeprefix(first)


def stratum(model: str, k: float, narrow: bool = False) -> str:
    """The heading of a panel: the model and how much is removed, in several lines if `narrow` or long."""
    first = bare(model)
    more = model.removeprefix(first).strip(" ()")
    rest = ", ".join(filter(None, [more, size(model, k)]))
    if narrow:
        return f"{named(first)},\n{rest}".replace(", ", ",\n")
    return f"{named(first)},{chr(10) if more else ' '}{rest}"


def colour(objective: str) -> str:
    """The colour of an objective."""
    return OBJECTIVES.get(objective) or SPARE[zlib.crc32(objective.encode()) % len(SPARE)]


def ordered(names: Iterable[str], known: Iterable[str] = ORDER) -> list[str]:
    """Distinct names: first those in `known` (default: the searches), then the others in alphabetical order."""
    distinct = {str(name) for name in names}
    first = [name for name in known if name in distinct]
    return first + sorted(distinct - set(first))


def objectives(names: Iterable[str]) -> list[str]:
    """Distinct objectives: first those with a colour, in the order of colours, then others in alphabetical order."""
    return ordered(names, OBJECTIVES)


def rows_of(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows with the given values in the named columns."""
    chosen = pd.Series(True, frame.index)
    for name, value in values.items():
        chosen &= frame[name] == value
    return frame[chosen]


# A page: a title, panels, and a note on how to read them.


def page(
    rows: int, columns: int, height: float, title: str, note: str = "", **options: Any
) -> tuple[Figure, list[list[Axes]]]:
    """A figure as wide as a page, with rows of panels. Each row is `height` inches high, including labels."""
    text = wrapped(note, 138)
    figure = Figure(figsize=(PAGE, 0.3 + rows * height + 0.13 * (text.count("\n") + 1)), layout="constrained")
    figure.suptitle(wrapped(title, 100), x=0.008, ha="left", fontsize=TITLE, weight="bold", color=INK)
    if text:
        figure.supxlabel(text, x=0.008, ha="left", fontsize=SMALL, color=GREY)
    return figure, [list(line) for line in figure.subplots(rows, columns, squeeze=False, **options)]


def pages(count: int, columns: int, height: float, title: str, note: str = "") -> tuple[Figure, list[Axes]]:
    """Like `page`, for `count` panels that fill one row after another."""
    columns = min(count, columns)
    figure, grid = page(-(-count // columns), columns, height, title, note)
    flat = [axes for line in grid for axes in line]
    for axes in flat[count:]:
        axes.set_axis_off()
    return figure, flat[:count]


def wrapped(text: str, limit: int) -> str:
    """Text in lines of at most `limit` characters."""
    return textwrap.fill(text, limit, break_long_words=False, break_on_hyphens=False)


def empty(axes: Axes, text: str) -> None:
    """Write into an empty panel why nothing is drawn in it."""
    axes.set_axis_off()
    shown = axes.text(0.5, 0.5, text, color=GREY, fontsize=SMALL, transform=axes.transAxes)
    shown.set(ha="center", va="center")


# Rows of a panel in groups: a heading for each objective and, below it, a line for each search.


@dataclass(frozen=True)
class Rows:
    """Vertical positions, 0 at the panel's top: `heads` for headings, by group; `lines` for lines, by group and name.

    If `objectives` is true, the groups are objectives, and headings have their colours.
    """

    heads: Mapping[str, float]
    lines: Mapping[tuple[str, str], float]
    height: float
    objectives: bool = False

    @classmethod
    def of(cls, groups: Mapping[str, Sequence[str]], objectives: bool = False) -> Rows:
        """The positions of the groups and their lines, from top to bottom."""
        heads, lines, y = dict[str, float](), dict[tuple[str, str], float](), 0.0
        for group, names in groups.items():
            heads[group] = y
            lines |= {(group, name): y + 1 + i for i, name in enumerate(names)}
            y += len(names) + 1.3
        return cls(heads, lines, y - 0.3, objectives)

    @classmethod
    def of_cells(cls, cells: pd.DataFrame) -> Rows:
        """A group for each objective, with a line for each of its searches."""
        names = objectives(cells["objective"])
        return cls.of({name: ordered(rows_of(cells, objective=name)["algo"]) for name in names}, True)

    def name(self, axes: Axes, shown: bool = True) -> None:
        """Make room for the lines and, if `shown`, write their names to the left of the panel."""
        axes.set_ylim(self.height - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        places = [*self.heads.values(), *self.lines.values()]
        texts = [named(name) for name in (*self.heads, *(name for _, name in self.lines))]
        axes.set_yticks(places, texts if shown else [""] * len(places), fontsize=SMALL)
        axes.tick_params(axis="y", length=0)
        for label, group in zip(axes.get_yticklabels(), self.heads, strict=False):
            label.set(weight="bold", color=colour(group) if self.objectives else INK)


def dots(
    axes: Axes,
    x: ArrayLike,
    y: ArrayLike,
    ends: tuple[Any, Any],
    hue: str,
    upright: bool = False,
    **more: Any,
) -> None:
    """Draw points, and intervals between the two `ends`: horizontal ones or, if `upright` is true, vertical ones."""
    (axes.vlines if upright else axes.hlines)(x if upright else y, *ends, color=hue, lw=1.1, alpha=0.6)
    marker: dict[str, Any] = {"marker": "o", "ls": "", "color": hue, "ms": 4, "mec": "white", "mew": 0.5}
    axes.plot(x, y, **(marker | more))


def plain_log(axis: Axis) -> None:
    """Label a log axis with plain numbers or, over a wide range, powers of ten. Set the axis limits first."""
    low, high = axis.get_view_interval()
    axis.set_minor_locator(NullLocator())
    if high > 300 * low:
        axis.set_major_locator(LogLocator(numticks=5))
        axis.set_major_formatter(LogFormatterMathtext())
        return
    few = MaxNLocator(4, steps=(1, 2, 5, 10)).tick_values(low, high)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else FixedLocator(list(few)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.6g}" if v < LARGE else large(v)))


# Numbers as text.


def signed(value: float) -> str:
    """A correlation with two decimals. A negative correlation has a minus sign instead of a hyphen."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def large(value: float) -> str:
    """A large number in short form, such as 1.4e8 for the perplexity of a broken model."""
    return f"{value:.2g}".replace("e+0", "e").replace("e+", "e")


def number(value: float) -> str:
    """A number with about three digits: 0.24, 5.31, 40.6, 373, 21,622, 1.4e8."""
    if math.isnan(value):
        return DASH
    if abs(value) >= LARGE:
        return large(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def counted(n: int, noun: str) -> str:
    """A number and its noun, as in `1 cell` or `1,200 cells`."""
    return f"{n:,} {noun}{'s' * (n != 1)}"
