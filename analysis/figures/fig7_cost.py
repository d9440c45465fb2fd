"""Figure 7: how many masks each search scored, and the loss of its mask minus that of the best known mask."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.load import done
from ..data.study import AskedStudy
from ..stats import crossed, regret
from ..stats.crossed import Trace
from ..stats.grid import STRATUM, each, groups, strata_of
from ..stats.means import CellDraws, compared, over_draws
from . import style
from .cli import Drawing, StudyFigure
from .style import GREY, named, rows_of

GROUP = ["objective", *STRATUM]
APART = 0.045  # distance between the names of two searches, as a share of the panel's width


def draw(ends: pd.DataFrame) -> Figure:
    """A panel for each model and size, with a line for each objective."""
    strata = strata_of(ends[ends["excess"] > 0]) or strata_of(ends)[:1]
    note = "points: means over calibration draws, with 95 % intervals; filled: no other search has both fewer scores "
    note += "and a lower loss; in brackets: the loss that the worst search leaves above the best known mask"
    worst = ends.groupby("objective")["excess"].max()
    if gone := [named(name) for name in style.objectives(worst.index[worst <= 0])]:
        note += f"; every search found the best known mask for {', '.join(gone)}"
    title = "What the searches cost, and what they leave of the way to the best known mask"
    figure, panels = style.pages(len(strata), 2, 3.0 if len(strata) < 5 else 2.7, title, note)
    for i, (axes, (model, k)) in enumerate(zip(panels, strata, strict=True)):
        _panel(axes, rows_of(ends, model=model, k=k))
        axes.set_title(style.stratum(model, k), pad=6 + 4.1 * max(map(len, map(named, ends["algo"]))))
        axes.set_xlabel("masks scored")
        if i % 2 == 0:
            axes.set_ylabel("excess loss, % of the worst search's")
    return figure


def _panel(axes: Axes, shown: pd.DataFrame) -> None:
    if shown["excess"].max() <= 0:
        style.empty(axes, "every search found the best known mask")
        return
    axes.set_xscale("log")
    for i, objective in enumerate(style.objectives(shown.loc[shown["excess"] > 0, "objective"])):
        own = rows_of(shown, objective=objective).sort_values("scores")
        hue, base = style.colour(objective), float(own["excess"].max())
        words = f"{named(objective)} ({style.number(base)}{style.UNITS.get(objective, '')})"
        axes.text(0.99, 0.98 - 0.075 * i, words, color=hue, transform=axes.transAxes, ha="right", va="top")
        left = 100 * own[["excess", "low", "high"]] / base
        axes.plot(own["scores"], left["excess"], color=hue, lw=0.8, alpha=0.5)
        axes.vlines(own["scores"], left["low"], left["high"], color=hue, lw=0.8, alpha=0.45)
        for row, y in zip(each(own), left["excess"], strict=True):
            face = hue if row.front_scores else "white"
            axes.plot(row.scores, y, "o", color=hue, ms=4, mfc=face, mew=0.8)
    axes.set(xlim=(shown["scores"].min() / 1.2, shown["scores"].max() * 1.2), ylim=(-4, 145))
    axes.set_yticks(range(0, 101, 25))
    style.plain_log(axes.xaxis)
    _names(axes, shown.groupby("algo")["scores"].median().sort_values())


def _names(axes: Axes, costs: pd.Series[float]) -> None:
    """Write the names of the searches above their costs, far enough apart to be read."""
    low, high = np.log(axes.get_xlim())
    places = (np.log(costs.to_numpy(float)) - low) / (high - low)
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + APART)
    places -= max(0.0, float(places[-1]) - 1)
    for algo, place in zip(costs.index, places, strict=True):
        text = axes.text(
            place, 1.02, named(algo), transform=axes.transAxes, rotation=90, ha="center", va="bottom"
        )
        text.set(color=GREY, in_layout=False)


# The numbers of the figure: the loss of each search above that of the best known mask, and its costs.


def measure(frame: pd.DataFrame, traces: Mapping[str, Trace], lines: Mapping[str, Trace]) -> pd.DataFrame:
    """One row per search, for each objective, model and k: mean costs, and the excess loss over the best known mask.

    `traces` has the scores over all samples. `lines` also has the partial scores of races, which take time too.
    """
    cells = done(frame)
    known = regret.best_known(cells, traces)
    known = known.join(regret.seconds_alone(known, lines))
    ends = []
    for keys, panel in groups(known, GROUP):
        whole, note = compared(panel)
        for algo, searched in groups(whole, "algo"):
            where = dict(zip(GROUP, keys, strict=True)) | {"algo": algo}
            ends.append(where | _end(searched) | {"draws_note": note})
    table = pd.DataFrame(ends)
    table["front_scores"] = False
    for _, panel in groups(table, GROUP):
        table.loc[panel.index, "front_scores"] = crossed.pareto(panel["scores"], panel["excess"])
    return table


def _end(cells: pd.DataFrame) -> dict[str, Any]:
    """The mean costs of a search, and its mean excess loss with an interval over draws (lower end at least 0)."""
    named = {"scores": "asked", "seconds": "seconds_alone"}
    costs = {cost: float(cells[column].astype(float).mean()) for cost, column in named.items()}
    excess = over_draws(cells["regret"], CellDraws.of(cells))
    ends = {"low": float(np.maximum(0.0, excess.low)), "high": excess.high, "draws": excess.draws}
    return {"cells": len(cells), **costs, "excess": excess.mean, **ends}


def _build(study: AskedStudy, _: Namespace) -> Drawing:
    ends = measure(study.frame, study.journals.traces, study.journals.lines)
    return Drawing(draw(ends), ends)


FIGURE = StudyFigure(
    name="fig7_cost",
    heading="Quality against cost",
    build=_build,
    section="searches",
    caption="Calibration loss above the best known mask against the number of masks scored, in percent of what the "
    "worst search leaves. Filled points are on the Pareto front.",
)
