"""Figure 4: how many blocks of a mask another search, another draw or another objective changes."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..data.archive import NothingToRead
from ..data.load import done, measured
from ..data.study import AskedStudy
from ..stats.estimands import DRAWN, OBJECTIVE, SEARCH, Change, changes
from . import style
from .cli import Drawing, StudyFigure
from .style import GREY, INK, LINE, Rows, named

GROUPS = {SEARCH: "another search", DRAWN: "another draw", OBJECTIVE: "another objective"}
COLUMNS = (
    "model", "k", "changed_by", "objectives", "others", "blocks", "low", "high", "draws", "chance", "of_each_draw",
    "worst_to_best", "worst_to_best_low", "worst_to_best_high",
)  # fmt: skip
WHITE: dict[str, Any] = {"bbox": {"fc": "white", "ec": "none", "pad": 0.6}}  # the background of a number


def draw(found: Sequence[Change]) -> Figure:
    """A panel for each model and size, with a line for each comparison of searches, draws or objectives."""
    strata = list(dict.fromkeys((one.model, one.k) for one in found))
    lines: dict[str, list[str]] = {}
    for factor, group in GROUPS.items():
        if names := [label(one) for one in found if one.factor == factor]:
            order = style.objectives({one.objectives[0] for one in found})
            ranked = sorted(dict.fromkeys(names), key=lambda name: [*map(named, order), name].index(name))
            lines[group] = ranked
    rows = Rows.of(lines)
    note = (
        "point: mean over pairs of masks, with its 95 % interval over draws; grey: each draw; chance: random "
    )
    note += "masks; a search is compared on the same draw, a draw for the same search, an objective for both"
    if any(one.apart for one in found):
        note += "; objectives that read other data have no draw in common, so all their draws are compared"
    title = "What moves a mask: blocks that another search, draw or objective changes"
    figure, panels = style.pages(len(strata), 2, rows.height * LINE * 1.15 + 0.5, title, note)
    for i, (axes, (model, k)) in enumerate(zip(panels, strata, strict=True)):
        own = [one for one in found if (one.model, one.k) == (model, k)]
        for one in own:
            _change(axes, one, rows.lines[GROUPS[one.factor], label(one)])
        rows.name(axes, i % 2 == 0)
        axes.set(xlim=(-0.02 * k, max(one.most for one in own) * 1.02), xlabel=f"blocks that change, of {k}")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.annotate("chance", (own[0].chance, 0), ha="center", va="center_baseline", color=GREY)
        axes.set_title(style.stratum(model, k))
        axes.grid(axis="x", color="0.94", lw=0.6)
        axes.set_axisbelow(True)
    return figure


def label(change: Change) -> str:
    """The name of a line: the objective, or the objectives that are compared."""
    few, many = (
        sorted((change.objectives, change.others), key=len) if change.others else (change.objectives, ())
    )
    others = "the others" if len(many) > 2 else " or ".join(map(named, many))
    return " : ".join(filter(None, [" or ".join(map(named, few)), others]))


def _change(axes: Axes, one: Change, y: float) -> None:
    mean, hue = one.changed, INK if one.factor == OBJECTIVE else style.colour(one.objectives[0])
    axes.plot([one.chance] * 2, [y - 0.5, y + 0.5], ":", color=INK, lw=1)
    axes.plot(one.each, [y] * len(one.each), "o", color="0.72", ms=2, mew=0)
    style.dots(axes, mean.mean, y, (mean.low, mean.high), hue)
    end = max([mean.mean, *one.each] if np.isnan(mean.high) else [mean.high, *one.each])
    axes.annotate(
        style.number(mean.mean), (end, y), (5, 0), "data", "offset points", va="center_baseline", **WHITE
    )


def table(found: Sequence[Change]) -> pd.DataFrame:
    """One row for each change: the changed blocks, and the ratio of the highest to the lowest held-out perplexity."""
    rows = []
    for one in found:
        changed, ratio = one.changed, one.worst_to_best
        compared = [one.model, one.k, one.factor, " ".join(one.objectives), " ".join(one.others)]
        of_each = " ".join(f"{value:.6g}" for value in one.each)
        blocks = [changed.mean, changed.low, changed.high, changed.draws, one.chance, of_each]
        rows.append([*compared, *blocks, ratio.mean, ratio.low, ratio.high])
    return pd.DataFrame(rows, columns=COLUMNS)


def _build(study: AskedStudy, _: Namespace) -> Drawing:
    cells, ppl = done(study.frame), measured(study.frame).get("ppl")
    found = changes(cells, np.log(ppl.of(cells)) if ppl else None)
    if not found:
        raise NothingToRead(
            "no two masks differ in search, draw or objective only: run two searches or two draws."
        )
    return Drawing(draw(found), table(found))


FIGURE = StudyFigure(
    name="fig4_changes",
    heading="What moves a mask",
    build=_build,
    section="masks",
    caption="How many blocks of a mask change with another search, another draw or another objective, all else "
    "equal, with 95 percent intervals over calibration draws. Small points are draws; the dotted line is chance.",
)
