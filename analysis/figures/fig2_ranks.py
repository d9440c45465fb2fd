"""Figure 2: rank by perplexity against rank by accuracy, one panel for each objective, model and k.

python -m analysis fig2 --results results --study small

Source: figure 2 of arXiv 2604.24938, which has only the objective perplexity. Each point is an algorithm. For
each metric, algorithms are ranked by their means over calibration data and draws. Rank 1 is best; tied algorithms get
the average of their ranks. Algorithms that tie in both metrics stand side by side in a grey band, whose middle is
their rank. Panels in which one of the rankings is constant are not drawn, and the note names them.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
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
from .cli import arguments, run
from .fig1_masks import of_draws
from .style import (
    LABEL,
    SMALL,
    TITLE,
    empty,
    legend,
    looks,
    ordered,
    panels,
    probability,
    save,
    signed,
    wrapped,
)

STEP = 0.5  # between the symbols of tied searches, in ranks


def draw(searches: pd.DataFrame, title: str, labels: tuple[str, str]) -> Figure:
    """One row of panels per objective, one column per model and k; without those that have nothing to compare."""
    shown, left_out = _comparable(searches)
    objectives = sorted(shown["objective"].unique())
    columns = strata_of(shown) or [("", 0)]
    algos = ordered(searches["algo"])
    look = looks(algos)
    width = min(2.12, 1.8 + 0.05 * max(0, len(algos) - 8))
    figure, grid = panels(max(1, len(objectives)), len(columns), width, width + 0.15, title)
    for i, objective in enumerate(objectives or [""]):
        for j, (model, k) in enumerate(columns):
            axes = grid[i][j]
            chosen = shown[(shown["objective"] == objective) & (shown["model"] == model) & (shown["k"] == k)]
            if chosen.empty:
                empty(axes, "" if len(shown) else "no two rankings to compare")
                continue
            _panel(axes, chosen, look, len(algos), heading(model, k) if i == 0 else "")
            if j == 0:
                axes.set_ylabel(f"pruned for {objective}\naccuracy rank", fontsize=LABEL)
            if i == len(objectives) - 1:
                axes.set_xlabel("perplexity rank", fontsize=LABEL)
    note = f"rank 1 is best; {labels[0]} against {labels[1]}; grey band: searches that tie in both; "
    note += "ρ: Spearman, 95 % interval over searches; "  # noqa: RUF001
    note += "q: exact permutation p-values up to 8 searches, false discovery rate controlled over panels"
    legend(figure, look, "; ".join([note, *left_out]))
    return figure


def _comparable(searches: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The panels in which neither ranking is constant, and a note that names the others."""
    where = ["objective", *STRATUM]
    varied = (
        searches.groupby(where)[["perplexity_rank", "accuracy_rank"]].transform("nunique").min(axis=1) > 1
    )
    gone = searches[~varied].groupby("objective")
    names = []
    for objective, rows in gone:
        whole = len(strata_of(rows)) == len(strata_of(searches[searches["objective"] == objective]))
        panels_of = ", ".join(heading(model, k).replace("\n", " ") for model, k in strata_of(rows))
        names.append(str(objective) if whole else f"{objective} ({panels_of})")
    note = [f"not drawn, because a ranking has only ties: {', '.join(names)}"] if names else []
    return searches[varied], note


def _panel(axes: Axes, chosen: pd.DataFrame, look: dict[str, tuple[str, str]], most: int, name: str) -> None:
    axes.plot([0.5, most + 0.5], [0.5, most + 0.5], color="0.85", lw=0.8, zorder=0)
    for _, tied in chosen.groupby(["perplexity_rank", "accuracy_rank"]):
        x, y = tied["perplexity_rank"].iloc[0], tied["accuracy_rank"].iloc[0]
        places = x + STEP * (np.arange(len(tied)) - (len(tied) - 1) / 2)
        if len(tied) > 1:
            band: dict[str, Any] = {"color": "0.87", "lw": 10, "solid_capstyle": "round"}
            axes.plot(places[[0, -1]], [y, y], zorder=1, **band)
        for place, algo in zip(places, ordered(tied["algo"]), strict=True):
            colour, marker = look[algo]
            axes.plot(place, y, marker, color=colour, ms=5.5, mec="white", mew=0.5)
    ticks = range(1, most + 1, 1 if most < 10 else 3)
    axes.set(xticks=ticks, yticks=ticks, xlim=(0.3, most + 0.7), ylim=(most + 0.7, 0.3))
    # Only the height of a title counts in the layout, and the first lines leave room for the heading.
    words = ("\n" * (2 + name.count("\n")) if name else "") + _words(chosen.iloc[0])
    axes.set_title(words, loc="left", fontsize=SMALL, linespacing=1.25, pad=4)
    above = axes.annotate(name, (0, 1), (0, 36), xycoords="axes fraction", textcoords="offset points")
    above.set(fontsize=TITLE, annotation_clip=False, in_layout=False)


def _words(row: pd.Series[Any]) -> str:
    """The panel's correlation, with how many searches, distinct masks and draws it is computed from."""
    masks, cells, draws = int(row["distinct_masks"]), int(row["cells"]), int(row["draws"])
    counts = f"n = {row['searches']} searches, {row['distinct']} distinct\n"
    counts += str(row["draws_note"]) or of_draws(cells, draws)
    counts += f", {masks} distinct mask{'s' * (masks != 1)}"
    if row["note"]:
        return f"{wrapped(str(row['note']), 34, ' ')}\n{counts}"
    interval = f" ({signed(row['low'])} to {signed(row['high'])})" if row["low"] < row["high"] else ""
    text = f"ρ {signed(row['spearman'])}{interval}, {probability('q', row['q'])}"  # noqa: RUF001
    published = read("figure2_ranks")
    same = published[(published["model"] == MODELS.get(row["model"])) & (published["k"] == row["k"])]
    if row["objective"] == "perplexity" and len(same):
        text += f", paper {signed(same['published_spearman'].iloc[0])}"
    return f"{text}\n{counts}"


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    perplexity, accuracy = choose(frame, "ppl", given.perplexity), choose(frame, "acc", given.accuracy)
    searches = ranks(frame, perplexity, accuracy)
    figure = draw(searches, title, (perplexity.label, accuracy.label))
    return save(
        figure, searches, given.out, "fig2_ranks", {"fig2_agreement": table(frame, perplexity, accuracy)}
    )


def main() -> None:
    """Draw the figure for a results folder."""
    run("fig2_ranks", arguments("Rank by perplexity against rank by accuracy.", metrics=True), _write)


# The table that accompanies figure 2, with several statistics of rank agreement.
#
# For each objective, model and k, the table has three correlations of perplexity and accuracy over searches:
# Spearman's rho, Kendall's tau and weighted tau. A search is ranked by its mean over draws, geometric for
# perplexities; rank 1 is best. Each correlation is computed twice: over all searches, and with searches that found
# the same masks counted as one. Kendall's W measures whether different draws rank the searches alike.

OUTCOMES = ("loss", "perplexity", "accuracy")


def table(frame: pd.DataFrame, perplexity: Metric, accuracy: Metric) -> pd.DataFrame:
    """One row per statistic and panel. q controls the false discovery rate over panels."""
    cells = done(frame)
    cells = cells.assign(perplexity=np.log(perplexity.of(cells)), accuracy=-accuracy.of(cells))
    rows = []
    for where, panel in groups(cells, ["objective", *STRATUM]):
        panel_keys = dict(zip(("objective", *STRATUM), where, strict=True))
        rows += [panel_keys | row for row in _correlations(panel)]
        rows += [panel_keys | row for row in _concordances(panel)]
    agreements = pd.DataFrame(rows)
    for _, same in groups(agreements, ["statistic", "of", "masks"]):
        agreements.loc[same.index, "q"] = controlled(list(same["p"]))
    return agreements


def _correlations(panel: pd.DataFrame) -> list[dict[str, object]]:
    rows = []
    every = means(panel, ["perplexity", "accuracy"])
    for masks, searches in (("all", every), ("distinct", every.drop_duplicates("masks"))):
        # Weighted tau ranks high values first. Here low values are best, so all values change sign.
        a, b = (-searches[outcome].round(9) for outcome in ("perplexity", "accuracy"))
        for name in STATISTICS:
            agreement = asdict(agree(a, b, name))
            value = agreement.pop("statistic")
            rows.append(
                {"statistic": name, "of": "perplexity, accuracy", "masks": masks, "value": value} | agreement
            )
    return rows


def _concordances(panel: pd.DataFrame) -> list[dict[str, object]]:
    """Kendall's W for each outcome. The draws are the raters, and the searches are the items."""
    cells, _ = compared(panel)
    rows = []
    for outcome in OUTCOMES:
        rated = cells.assign(setting=labels(cells, SETTING), value=cells[outcome].round(9))
        ratings = rated.pivot_table(index="setting", columns="algo", values="value").to_numpy()
        agreement = concordance(ratings if ratings.size else np.empty((0, 0)))
        rows.append(
            {"statistic": "kendall_w", "of": outcome, "masks": "all", "value": agreement.w, "p": agreement.p}
            | {"n": agreement.items, "raters": agreement.raters, "exact": False, "note": agreement.note}
        )
    return rows


# The numbers of figure 2: ranks of the searches by perplexity and by accuracy, and how far they agree.


def ranks(frame: pd.DataFrame, perplexity: Metric, accuracy: Metric) -> pd.DataFrame:
    """One row per algorithm and panel: means, ranks, and the panel's Spearman correlation (p, q, interval, note).

    The mean of a perplexity is geometric: in an arithmetic mean, one broken mask would outweigh all other draws.
    `searches` counts the algorithms of the panel, and `distinct_masks` the masks that they found in all draws. If
    several algorithms found the same masks in all draws, `distinct` and `distinct_spearman` count these as one.
    """
    cells = done(frame)
    cells = cells.assign(perplexity=perplexity.of(cells), accuracy=accuracy.of(cells))
    parts, correlations, once = [], [], []
    for (objective, model, k), panel in groups(cells, ["objective", *STRATUM]):
        ranked = _ranked(panel)
        correlations.append(agree(ranked["perplexity_rank"], ranked["accuracy_rank"]))
        distinct = ranked.drop_duplicates("masks")
        once.append(agree(distinct["perplexity_rank"], distinct["accuracy_rank"]).statistic)
        sizes = {"searches": len(ranked), "distinct": len(distinct)}
        sizes["distinct_masks"] = len({dropped for found in ranked["masks"] for *_, dropped in found})
        where = {"objective": objective, "model": model, "k": int(k)}
        parts.append(ranked.drop(columns="masks").assign(**where, **sizes))
    adjusted = controlled([a.p for a in correlations])
    for part, a, q, rho in zip(parts, correlations, adjusted, once, strict=True):
        part[["spearman", "p", "q", "low", "high", "distinct_spearman"]] = (
            a.statistic,
            a.p,
            q,
            a.low,
            a.high,
            rho,
        )
        part["note"] = a.note
    table = pd.concat(parts, ignore_index=True)
    first = ["objective", *STRATUM, "algo"]
    return table[[*first, *(c for c in table if c not in first)]]


def _ranked(panel: pd.DataFrame) -> pd.DataFrame:
    """Means and ranks of the searches of a panel."""
    searches = means(panel.assign(perplexity=np.log(panel["perplexity"])), ["perplexity", "accuracy"])
    # Searches with equal masks must tie. Sums in different orders differ in the last digits, so values are rounded.
    searches["perplexity_rank"] = searches["perplexity"].round(9).rank()
    searches["perplexity"] = np.exp(searches["perplexity"])
    searches["accuracy_rank"] = (-searches["accuracy"]).round(9).rank()
    return searches
