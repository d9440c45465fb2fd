"""Figure 2: rank by perplexity against rank by accuracy, one panel for each objective, model and k.

Source: figure 2 of arXiv 2604.24938, whose only objective is perplexity. Grey bands join tied searches.
"""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.load import Metric, choose, done
from ..data.study import AskedStudy
from ..stats.agreement import spearman
from ..stats.grid import STRATUM, groups, strata_of
from ..stats.means import means
from . import style
from .cli import Drawing, StudyFigure
from .style import counted, named, rows_of, signed

PANEL = ["objective", *STRATUM]
SIDES = ("perplexity_rank", "accuracy_rank")
LEAST = 4  # the fewest pairs for which a correlation is given


def draw(searches: pd.DataFrame, labels: tuple[str, str]) -> Figure:
    """A panel for each objective, model and k in which neither ranking is constant."""
    shown, left_out = comparable(searches)
    where = [
        (objective, *stratum)
        for objective in style.objectives(shown["objective"])
        for stratum in strata_of(shown)
    ]
    found = [panel for one in where if len(panel := rows_of(shown, **dict(zip(PANEL, one, strict=True))))]
    note = f"left: rank by {labels[0]}; right: rank by {labels[1]}; best above; grey: searches that tie; "
    note += "ρ: Spearman over searches" + left_out  # noqa: RUF001
    columns = 4 if len(found) > 6 else 3
    height = 0.66 + 0.13 * searches.groupby(PANEL).size().max()
    title = "Do perplexity and accuracy rank the searches alike?"
    figure, panels = style.pages(max(1, len(found)), columns, height, title, note)
    if not found:
        style.empty(panels[0], "no two rankings to compare")
    for axes, panel in zip(panels, found, strict=False):
        _panel(axes, panel)
    return figure


def comparable(searches: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The searches in panels whose rankings are not constant, and a note that names the panels left out."""
    distinct = searches.groupby(PANEL)[[*SIDES]].transform("nunique")
    varied = distinct.min(axis=1) > 1
    names = []
    for objective, rows in searches[~varied].groupby("objective"):
        whole = len(strata_of(rows)) == len(strata_of(rows_of(searches, objective=objective)))
        of = ", ".join(style.stratum(model, k) for model, k in strata_of(rows))
        names.append(named(objective) if whole else f"{named(objective)} ({of})")
    note = f"; not drawn, because a ranking has only ties: {', '.join(names)}" if names else ""
    return searches[varied], note


def _panel(axes: Axes, panel: pd.DataFrame) -> None:
    row = panel.iloc[0]
    hue = style.colour(row["objective"])
    # Tied searches are placed in the order of their ranks on the other side, so that few lines cross.
    places = {side: panel.sort_values([side, *SIDES], kind="stable")["algo"].tolist() for side in SIDES}
    for x, side in enumerate(SIDES):
        for _, tied in groups(panel, side):
            slots = [places[side].index(algo) for algo in tied["algo"]]
            if len(slots) > 1:
                axes.plot(
                    [x, x], [min(slots), max(slots)], color="0.85", lw=8, solid_capstyle="round", zorder=0
                )
    for algo in panel["algo"]:
        ends = [places[side].index(algo) for side in SIDES]
        axes.plot([0, 1], ends, color=hue, marker="o", ms=4, mec="white", mew=0.5)
        axes.text(-0.12, ends[0], named(algo), ha="right", va="center_baseline", in_layout=False)
    axes.set(xlim=(-1.0, 1.15), ylim=(len(panel) - 0.5, -0.6))
    axes.set_axis_off()
    words = f"ρ {signed(row['spearman'])}"  # noqa: RUF001
    title = f"{style.stratum(row['model'], row['k'])}\n{row['note'] or words}"
    axes.set_title(title, fontsize=style.SMALL)
    height = 6 + 9 * len(title.splitlines())
    above = axes.annotate(named(row["objective"]), (0, 1), (0, height), "axes fraction", "offset points")
    above.set(color=hue, weight="bold", annotation_clip=False)


# The numbers of the figure: ranks of the searches by perplexity and by accuracy, and how far they agree.


def ranks(frame: pd.DataFrame, perplexity: Metric, accuracy: Metric) -> pd.DataFrame:
    """One row per algorithm and panel: means, ranks, and the panel's Spearman correlation or a note.

    Mean perplexities are geometric: in an arithmetic mean, one broken mask would outweigh all others.
    `searches` is the panel's number of algorithms, and `distinct` how many different sets of masks they found.
    """
    cells = done(frame)
    cells = cells.assign(perplexity=perplexity.of(cells), accuracy=accuracy.of(cells))
    parts = []
    for (objective, model, k), panel in groups(cells, PANEL):
        ranked = _ranked(panel)
        rho, note = _correlation(ranked)
        parts.append(
            ranked.drop(columns="masks").assign(
                objective=objective,
                model=model,
                k=int(k),
                searches=len(ranked),
                distinct=ranked["masks"].nunique(),
                spearman=rho,
                note=note,
            )
        )
    table = pd.concat(parts, ignore_index=True)
    first = [*PANEL, "algo"]
    return table[[*first, *(c for c in table if c not in first)]]


def _correlation(ranked: pd.DataFrame) -> tuple[float, str]:
    first, second = ranked[[*SIDES]].dropna().to_numpy(float).T
    if len(first) < LEAST:
        return float("nan"), f"{counted(len(first), 'pair')}; at least {LEAST} are needed"
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan"), "one of the rankings is constant"
    return float(spearman(first, second)), ""


def _ranked(panel: pd.DataFrame) -> pd.DataFrame:
    """Means and ranks of the searches of a panel."""
    searches = means(panel.assign(perplexity=np.log(panel["perplexity"])), ["perplexity", "accuracy"])
    # Searches with equal masks must tie. Sums in different orders differ in the last digits, so values are rounded.
    searches["perplexity_rank"] = searches["perplexity"].round(9).rank()
    searches["perplexity"] = np.exp(searches["perplexity"])
    searches["accuracy_rank"] = (-searches["accuracy"]).round(9).rank()
    return searches


def _build(study: AskedStudy, given: Namespace) -> Drawing:
    both = choose(study.frame, "ppl", given.perplexity), choose(study.frame, "acc", given.accuracy)
    searches = ranks(study.frame, *both)
    return Drawing(draw(searches, (both[0].label, both[1].label)), searches)


FIGURE = StudyFigure(
    name="fig2_ranks",
    heading="Perplexity rank against accuracy rank",
    build=_build,
    metrics=True,
    section="masks",
    caption="Each line is a search, from its rank by perplexity to its rank by accuracy; the best is above. Lines "
    "that cross are searches that the two outcomes rank differently.",
)
