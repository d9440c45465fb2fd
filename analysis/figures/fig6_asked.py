"""Figure 6: whether a search that lowers the calibration loss also lowers the held-out perplexity.

The first panel has all objectives. Each objective also has its own panel, because differences between
searches are small compared with those between objectives.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..data.archive import NothingToRead
from ..data.load import choose, done
from ..data.study import AskedStudy
from ..stats.estimands import ONE_SHOT, SearchLine, search_lines
from . import style
from .cli import Drawing, StudyFigure
from .style import GREY, INK, TIMES, named, number

BREAK = (float("nan"), float("nan"))  # ends a line


def draw(lines: Sequence[SearchLine], perplexity: str) -> Figure:
    """A row of panels for each model and size: a panel for all objectives, then one for each objective."""
    strata = list(dict.fromkeys((line.model, line.k) for line in lines))
    every = style.objectives(line.objective for line in lines)
    shown = [name for name in every if any(gain(one) is not None for one in lines if one.objective == name)]
    note = f"{perplexity}; a thick line joins one-shot, at 0, to the search of lowest own loss on the same draw; "
    note += (
        f"thin: the searches between; {TIMES}: held-out perplexity along the thick line, median over draws"
    )
    if gone := [named(name) for name in every if name not in shown]:
        note += f"; no search improves on one-shot: {', '.join(gone)}"
    height = max(1.4, min(2.3, 8.4 / len(strata)))
    title = "Search harder, get what you asked for: own loss and held-out perplexity"
    figure, grid = style.page(len(strata), 1 + len(shown), height, title, note)
    for row, (model, k) in zip(grid, strata, strict=True):
        here = [one for one in lines if (one.model, one.k) == (model, k)]
        own = {name: [one for one in here if one.objective == name] for name in shown}
        for name, of_name in own.items():
            _lines(row[0], of_name, name)
        _finish(row[0], style.stratum(model, k), "all on one axis", INK)
        row[0].set_ylabel("held-out perplexity : unpruned")
        for axes, (name, of_name) in zip(row[1:], own.items(), strict=True):
            if gained := any(gain(one) is not None for one in of_name):
                _lines(axes, of_name, name)
            _finish(axes, named(name), verdict(of_name), style.colour(name))
            if not gained:
                style.empty(axes, "")
    units = [style.UNITS.get(name, "") for name in shown]
    common = units[0] if len({*units}) == 1 else ""
    for axes, unit in zip(grid[-1], [common, *units], strict=True):
        axes.set_xlabel(f"own loss below\none-shot's{',' * bool(unit)}{unit}")
    return figure


def _lines(axes: Axes, lines: Sequence[SearchLine], objective: str) -> None:
    hue, through, ends = style.colour(objective), list[tuple[float, float]](), list[tuple[float, float]]()
    for line in lines:
        points = list(zip(line.gained, np.exp(line.over), strict=True))
        through += [*points, BREAK]
        ends += [points[line.searches.index(ONE_SHOT)], points[-1], BREAK]
    axes.plot(*np.array(through or [BREAK]).T, color=hue, lw=0.5, alpha=0.35, marker="o", ms=2, mew=0)
    axes.plot(*np.array(ends or [BREAK]).T, color=hue, lw=1.1, marker="o", ms=3.5, mec="white", mew=0.4)


def _finish(axes: Axes, title: str, words: str, hue: str) -> None:
    if axes.lines:  # an empty panel has no axes
        axes.set_yscale("log")
        axes.autoscale_view()
        style.plain_log(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.grid(axis="y", color="0.94", lw=0.6)
    axes.set_axisbelow(True)
    axes.set_title(title, color=hue, weight="bold", fontsize=style.SMALL, pad=14)
    below = axes.annotate(words, (0, 1), (0, 4), "axes fraction", "offset points")
    below.set(color=GREY, in_layout=False)


def verdict(lines: Sequence[SearchLine]) -> str:
    """As text, how perplexity changes from one-shot's mask to the mask of lowest loss: the median over draws."""
    steps = [step for line in lines if (step := gain(line)) is not None]
    if not steps:
        return "no gain in own loss" if lines else "not run"
    falls, rises = (sum(sign * step > 0 for step in steps) for sign in (-1, 1))
    word, n = ("lower", falls) if falls >= rises else ("higher", rises)
    return f"{TIMES}{number(float(np.exp(np.median(steps))))}, {word} in {n} of {len(lines)}"


def gain(line: SearchLine) -> float | None:
    """Log perplexity of the mask of lowest loss minus that of one-shot's; None if no loss is below one-shot's."""
    return None if line.gained[-1] <= 0 else line.over[-1] - line.over[line.searches.index(ONE_SHOT)]


def _build(study: AskedStudy, given: Namespace) -> Drawing:
    cells = done(study.frame)
    metric = choose(study.frame, "ppl", given.perplexity)
    lines = search_lines(cells, np.log(metric.of(cells) / metric.of(cells, "dense")))
    if not lines:
        raise NothingToRead("no draw has one-shot and another search with a held-out perplexity: run both.")
    rows = [
        [line.model, line.k, line.objective, line.calibration, line.draw, *point]
        for line in lines
        for point in zip(line.searches, line.gained, np.exp(line.over), strict=True)
    ]
    columns = ["model", "k", "objective", "calibration", "draw", "algo", "gained", "over_unpruned"]
    return Drawing(draw(lines, metric.label), pd.DataFrame(rows, columns=columns))


FIGURE = StudyFigure(
    name="fig6_asked",
    heading="Does a lower loss also lower perplexity?",
    build=_build,
    metrics=True,
    section="costs",
    caption="Each line is a calibration draw through its searches: how far their own loss is below one-shot's, and "
    "their held-out perplexity over that of the unpruned model. If a line falls, a lower loss comes with a "
    "lower perplexity.",
)
