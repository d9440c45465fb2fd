"""Figure 2: rank by perplexity against rank by accuracy, one panel for each objective, model and k.

depth-pruning figure fig2 --results results --study small

Source: figure 2 of arXiv 2604.24938, which has only the objective perplexity. Each point is an algorithm. For
each metric, algorithms are ranked by their means over calibration data and draws. Rank 1 is best; tied algorithms get
the average of their ranks. Algorithms that tie in both metrics stand side by side in a grey band, whose middle is
their rank. Panels in which one of the rankings is constant are not drawn, and the note names them.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.load import Metric, choose, done
from ..data.study import AskedStudy
from ..paper.check import MODELS, read
from ..stats.agreement import STATISTICS, agree, concordance, controlled
from ..stats.grid import SETTING, STRATUM, groups, heading, labels, strata_of
from ..stats.means import compared, means
from . import style
from .cli import Drawing, StudyFigure, once
from .fig1_masks import of_draws
from .style import Look, counted, rows_of, signed

PANEL = ["objective", *STRATUM]
STEP = 0.5  # between the symbols of tied searches, in ranks


def draw(searches: pd.DataFrame, title: str, labels: tuple[str, str]) -> Figure:
    """One row of panels per objective, one column per model and k; without those that have nothing to compare."""
    shown, left_out = comparable(searches)
    objectives, columns = sorted(shown["objective"].unique()), strata_of(shown)
    algos = style.ordered(searches["algo"])
    look = style.looks(algos)
    width = min(2.12, 1.8 + 0.05 * max(0, len(algos) - 8))
    figure, grid = style.panels(max(1, len(objectives)), max(1, len(columns)), width, width + 0.15, title)
    if not objectives:
        style.empty(grid[0][0], "no two rankings to compare")
    for line, objective in zip(grid, objectives, strict=False):
        for axes, (model, k) in zip(line, columns, strict=True):
            chosen = rows_of(shown, objective=objective, model=model, k=k)
            if chosen.empty:
                style.empty(axes, "")
            else:
                _panel(axes, chosen, look, heading(model, k) if line is grid[0] else "")
        if line[0].axison:
            line[0].set_ylabel(f"pruned for {objective}\naccuracy rank", fontsize=style.LABEL)
    for axes in grid[-1]:
        axes.set_xlabel("perplexity rank", fontsize=style.LABEL)
    note = f"rank 1 is best; {labels[0]} against {labels[1]}; grey band: searches that tie in both; "
    note += "ρ: Spearman, 95 % interval over searches; "  # noqa: RUF001
    note += "q: exact permutation p-values up to 8 searches, false discovery rate controlled over panels"
    style.legend(figure, look, note + left_out)
    return figure


def comparable(searches: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The panels in which neither ranking is constant, and the end of a note that names the others."""
    distinct = searches.groupby(PANEL)[["perplexity_rank", "accuracy_rank"]].transform("nunique")
    varied = distinct.min(axis=1) > 1
    names = []
    for objective, rows in searches[~varied].groupby("objective"):
        whole = len(strata_of(rows)) == len(strata_of(rows_of(searches, objective=objective)))
        of = ", ".join(heading(model, k).replace("\n", " ") for model, k in strata_of(rows))
        names.append(str(objective) if whole else f"{objective} ({of})")
    note = f"; not drawn, because a ranking has only ties: {', '.join(names)}" if names else ""
    return searches[varied], note


def _panel(axes: Axes, chosen: pd.DataFrame, look: Mapping[str, Look], name: str) -> None:
    most = len(look)
    axes.plot([0.5, most + 0.5], [0.5, most + 0.5], color="0.85", lw=0.8, zorder=0)
    for (x, y), tied in groups(chosen, ["perplexity_rank", "accuracy_rank"]):
        places = x + STEP * (np.arange(len(tied)) - (len(tied) - 1) / 2)
        if len(tied) > 1:
            band: dict[str, Any] = {"color": "0.87", "lw": 10, "solid_capstyle": "round"}
            axes.plot(places[[0, -1]], [y, y], zorder=1, **band)
        for place, algo in zip(places, style.ordered(tied["algo"]), strict=True):
            colour, marker = look[algo]
            axes.plot(place, y, marker, color=colour, ms=5.5, mec="white", mew=0.5)
    ticks = range(1, most + 1, 1 if most < 10 else 3)
    axes.set(xticks=ticks, yticks=ticks, xlim=(0.3, most + 0.7), ylim=(most + 0.7, 0.3))
    # Only the height of a title counts in the layout, and the first lines leave room for the heading.
    words = ("\n" * (2 + name.count("\n")) if name else "") + _words(chosen.iloc[0])
    axes.set_title(words, loc="left", fontsize=style.SMALL, linespacing=1.25, pad=4)
    above = axes.annotate(name, (0, 1), (0, 36), xycoords="axes fraction", textcoords="offset points")
    above.set(fontsize=style.TITLE, annotation_clip=False, in_layout=False)


def _words(row: pd.Series[Any]) -> str:
    """The panel's correlation, with how many searches, distinct masks and draws it is computed from."""
    counts = f"n = {row['searches']} searches, {row['distinct']} distinct\n"
    counts += str(row["draws_note"]) or of_draws(int(row["cells"]), int(row["draws"]))
    counts += f", {counted(int(row['distinct_masks']), 'distinct mask')}"
    if row["note"]:
        return f"{style.wrapped(str(row['note']), 34, ' ')}\n{counts}"
    ends = f" ({signed(row['low'])} to {signed(row['high'])})" if row["low"] < row["high"] else ""
    text = f"ρ {signed(row['spearman'])}{ends}, {style.probability('q', row['q'])}"  # noqa: RUF001
    published = rows_of(read("figure2_ranks"), model=MODELS.get(row["model"]), k=row["k"])
    if row["objective"] == "perplexity" and len(published):
        text += f", paper {signed(published['published_spearman'].iloc[0])}"
    return f"{text}\n{counts}"


# The numbers of the figure: ranks of the searches by perplexity and by accuracy, and how far they agree.


def ranks(frame: pd.DataFrame, perplexity: Metric, accuracy: Metric) -> pd.DataFrame:
    """One row per algorithm and panel: means, ranks, and the panel's Spearman correlation (p, q, interval, note).

    The mean of a perplexity is geometric: in an arithmetic mean, one broken mask would outweigh all other draws.
    `searches` counts the algorithms of the panel, and `distinct_masks` the masks that they found in all draws. If
    several algorithms found the same masks in all draws, `distinct` and `distinct_spearman` count these as one.
    """
    cells = done(frame)
    cells = cells.assign(perplexity=perplexity.of(cells), accuracy=accuracy.of(cells))
    parts, p_values = [], []
    for (objective, model, k), panel in groups(cells, PANEL):
        ranked = _ranked(panel)
        distinct = ranked.drop_duplicates("masks")
        found = agree(ranked["perplexity_rank"], ranked["accuracy_rank"])
        p_values.append(found.p)
        parts.append(
            ranked.drop(columns="masks").assign(
                objective=objective,
                model=model,
                k=int(k),
                searches=len(ranked),
                distinct=len(distinct),
                distinct_masks=len({dropped for masks in ranked["masks"] for *_, dropped in masks}),
                spearman=found.statistic,
                p=found.p,
                q=np.nan,
                low=found.low,
                high=found.high,
                distinct_spearman=agree(distinct["perplexity_rank"], distinct["accuracy_rank"]).statistic,
                note=found.note,
            )
        )
    for part, q in zip(parts, controlled(p_values), strict=True):
        part["q"] = q
    table = pd.concat(parts, ignore_index=True)
    first = [*PANEL, "algo"]
    return table[[*first, *(c for c in table if c not in first)]]


def _ranked(panel: pd.DataFrame) -> pd.DataFrame:
    """Means and ranks of the searches of a panel."""
    searches = means(panel.assign(perplexity=np.log(panel["perplexity"])), ["perplexity", "accuracy"])
    # Searches with equal masks must tie. Sums in different orders differ in the last digits, so values are rounded.
    searches["perplexity_rank"] = searches["perplexity"].round(9).rank()
    searches["perplexity"] = np.exp(searches["perplexity"])
    searches["accuracy_rank"] = (-searches["accuracy"]).round(9).rank()
    return searches


# The table that accompanies the figure, with several statistics of rank agreement.
#
# For each objective, model and k, the table has three correlations of perplexity and accuracy over searches:
# Spearman's rho, Kendall's tau and weighted tau. A search is ranked by its mean over draws, geometric for
# perplexities; rank 1 is best. Each correlation is computed twice: over all searches, and with searches that found
# the same masks counted as one. Kendall's W measures whether different draws rank the searches alike.

OUTCOMES = ("loss", "perplexity", "accuracy")


@once
def agreements(study: AskedStudy, perplexity: str | None = None, accuracy: str | None = None) -> pd.DataFrame:
    """One row per statistic and panel. q controls the false discovery rate over panels."""
    cells = done(study.frame)
    ppl, acc = choose(study.frame, "ppl", perplexity), choose(study.frame, "acc", accuracy)
    cells = cells.assign(perplexity=np.log(ppl.of(cells)), accuracy=-acc.of(cells))
    rows = []
    for where, panel in groups(cells, PANEL):
        found = [*_correlations(panel), *_concordances(panel)]
        rows += [dict(zip(PANEL, where, strict=True)) | row for row in found]
    table = pd.DataFrame(rows)
    for _, same in groups(table, ["statistic", "of", "masks"]):
        table.loc[same.index, "q"] = controlled(list(same["p"]))
    return table


def _correlations(panel: pd.DataFrame) -> list[dict[str, object]]:
    rows = []
    every = means(panel, ["perplexity", "accuracy"])
    for masks, searches in (("all", every), ("distinct", every.drop_duplicates("masks"))):
        # Weighted tau ranks high values first. Here low values are best, so all values change sign.
        a, b = (-searches[outcome].round(9) for outcome in ("perplexity", "accuracy"))
        for name in STATISTICS:
            found = asdict(agree(a, b, name))
            first = {"statistic": name, "of": "perplexity, accuracy", "masks": masks}
            rows.append(first | {"value": found.pop("statistic")} | found)
    return rows


def _concordances(panel: pd.DataFrame) -> list[dict[str, object]]:
    """Kendall's W for each outcome. The draws are the raters, and the searches are the items."""
    cells, _ = compared(panel)
    rows = []
    for outcome in OUTCOMES:
        rated = cells.assign(setting=labels(cells, SETTING), value=cells[outcome].round(9))
        ratings = rated.pivot_table(index="setting", columns="algo", values="value").to_numpy()
        found = concordance(ratings if ratings.size else np.empty((0, 0)))
        first = {"statistic": "kendall_w", "of": outcome, "masks": "all", "value": found.w, "p": found.p}
        rows.append(first | {"n": found.items, "raters": found.raters, "exact": False, "note": found.note})
    return rows


def _build(study: AskedStudy, given: Namespace) -> Drawing:
    both = choose(study.frame, "ppl", given.perplexity), choose(study.frame, "acc", given.accuracy)
    searches = ranks(study.frame, *both)
    figure = draw(searches, study.title, (both[0].label, both[1].label))
    others = {"fig2_agreement": agreements(study, given.perplexity, given.accuracy)}
    return Drawing(figure, searches, others)


FIGURE = StudyFigure(
    name="fig2_ranks",
    heading="Perplexity rank against accuracy rank",
    build=_build,
    metrics=True,
    section="masks",
    caption="Each point is a search; rank 1 is best. On the diagonal, both outcomes give a search the same rank. "
    "Searches that tie in both stand in a grey band.",
)
