"""Figure 8: how often other calibration samples would lead to another mask, and how many samples are enough.

depth-pruning figure fig8 --results results --study small

The figure is computed from the per-sample losses in the traces; no model is run. The left panel shows how often the
final decision of a search gives another mask if the calibration data are bootstrapped. The others show how often two
disjoint subsets of n samples give the same mask, and the Jaccard overlap of their two masks. Points are means over
cells, in percent; bars are 95 percent intervals over calibration draws.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.load import done
from ..data.study import AskedStudy
from ..stats import stability
from ..stats.crossed import Trace
from ..stats.grid import STRATUM, budgets, groups, size, strata_of
from ..stats.means import CellDraws, over_draws
from . import style
from .cli import Drawing, StudyFigure, once
from .style import Look, counted, line_key, rows_of

WHERE = ["cell", *STRATUM, "objective", "calibration", "samples", "length", "draw", "algo"]
CURVES = {"pair": "two subsets,\nsame mask, %", "pair_overlap": "two subsets,\noverlap, %"}
LEVEL = 90  # percent: agreement that is called enough (see `stability.enough`)
Strata = Mapping[tuple[str, int], Look]


def draw(frame: pd.DataFrame, rows: pd.DataFrame, curves: pd.DataFrame, title: str) -> Figure:
    """One row of panels per objective: by algorithm on the left, over numbers of samples on the right."""
    objectives, algos = sorted(rows["objective"].unique()), style.ordered(rows["algo"])
    looks = style.looks([f"{model}, {size(model, k)}" for model, k in strata_of(rows)])
    strata = dict(zip(strata_of(rows), looks.values(), strict=True))
    figure, grid = style.panels(len(objectives), 3, 2.75, 0.6 + 0.19 * max(6, len(algos)), title)
    for line, objective in zip(grid, objectives, strict=True):
        cells = rows_of(rows, objective=objective)
        _resamples(line[0], cells, rows_of(frame, objective=objective), algos, strata)
        known = cells[cells["other_mask"].notna()]
        among = f" of {len(cells)}" if len(known) < len(cells) else ""
        draws = len(set(CellDraws.of(known).draw)) if len(known) else 0
        n = f"{len(known)}{among} cell{'s' * (len(cells) != 1)}, {counted(draws, 'draw')}"
        line[0].set_title(f"pruned for {objective} · n = {n}", fontsize=style.TITLE, loc="left")
        for axes, (column, label) in zip(line[1:], CURVES.items(), strict=True):
            _curves(axes, rows_of(curves, objective=objective) if len(curves) else curves, strata, column)
            axes.set_ylabel(label, fontsize=style.LABEL - 0.5)
    for axes, label in zip(
        grid[-1], ["resamples with another mask, %", *["samples in a subset"] * 2], strict=True
    ):
        axes.set_xlabel(label, fontsize=style.LABEL)
    note = "means over cells, 95 % intervals over calibration draws; left: bootstrapped calibration samples; "
    note += f"right: two disjoint subsets of one draw, grey line: {LEVEL} %; "
    note += "overlap: Jaccard, 100 % if the masks are equal"
    for (objective, why), cells in groups(rows[rows["other_mask"].isna()], ["objective", "note"]):
        note += f"; left out: {counted(len(cells), 'cell')} of {objective}, where {why}"
    if (rows.groupby("objective")["samples"].nunique() > 1).any():
        note += "; cells with different numbers of samples are pooled"
    keys = [line_key("95 % interval", lw=1.2), line_key("missing", marker="x", ls="", ms=3.5, mew=0.7)]
    style.legend(figure, looks, note, keys)
    return figure


def _percent(values: pd.Series[float], cells: pd.DataFrame) -> tuple[float, float, float]:
    """The mean of shares in percent, with its interval, which is within 0 and 100."""
    drawn = over_draws(100 * values.astype(float), CellDraws.of(cells))
    low, high = np.clip([drawn.low, drawn.high], 0, 100)
    return drawn.mean, float(low), float(high)


def _resamples(
    axes: Axes, rows: pd.DataFrame, asked: pd.DataFrame, algos: Sequence[str], strata: Strata
) -> None:
    """Draw the means of finished cells. If a search has no value for a model and k, draw a cross."""
    for y, algo in enumerate(algos):
        wanted = set(strata_of(rows_of(asked, algo=algo)))
        if y:
            axes.axhline(y - 0.5, color="0.93", lw=0.6, zorder=0)
        for i, ((model, k), look) in enumerate(strata.items()):
            cells = rows_of(rows, algo=algo, model=model, k=k)
            height = y + 0.8 / len(strata) * (i - (len(strata) - 1) / 2)
            if (model, k) in wanted and cells["other_mask"].isna().all():
                axes.plot(0, height, "x", color="0.6", ms=3, mew=0.7)
            elif (model, k) in wanted:
                mean, *ends = _percent(cells["other_mask"], cells)
                style.interval(axes, mean, height, ends, look, sideways=True, ms=4)
    style.name_rows(axes, algos)
    axes.set(xlim=(-3, 103), xticks=range(0, 101, 25))


def _curves(axes: Axes, lines: pd.DataFrame, strata: Strata, column: str) -> None:
    if lines.empty:
        style.empty(axes, "no last decision in the traces")
        return
    sizes = sorted(lines["n"].unique())
    for i, ((model, k), look) in enumerate(strata.items()):
        curve = list(groups(rows_of(lines, model=model, k=k), "n"))
        means = [_percent(part[column], part) for _, part in curve]
        x = [n * 2.0 ** (0.05 * (i - (len(strata) - 1) / 2)) for n, _ in curve]  # side by side
        axes.plot(x, [mean for mean, *_ in means], color=look[0], lw=1.1)
        for place, (mean, *ends) in zip(x, means, strict=True):
            style.interval(axes, place, mean, ends, look, ms=4)
    axes.axhline(LEVEL, color="0.75", lw=0.8, zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()
    axes.set(ylim=(-3, 103), yticks=range(0, 101, 25))


# The numbers of the figure.


def measure(frame: pd.DataFrame, traces: Mapping[str, Trace]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per cell (how often resamples give another mask, samples needed), and agreement for each cell and n."""
    rows, curves = [], []
    cells = done(frame)
    for (_, cell), budget in zip(cells.iterrows(), budgets(cells), strict=True):
        decision = stability.last_decision(traces[str(cell["cell"])], int(cell["k"]), budget)
        where = dict(cell[WHERE])
        if decision is None:
            rows.append(where | {"note": stability.refusal(traces[str(cell["cell"])])})
            continue
        other, overlap = stability.resampled(decision)
        curve = stability.curve(decision)
        curves.append(curve.assign(**where))
        sizes = {"candidates": len(decision.candidates), "resampled": decision.losses.shape[1]}
        enough = {"enough": stability.enough(curve), "enough_pair": stability.enough(curve, "pair")}
        rows.append(where | sizes | {"other_mask": other, "overlap": overlap} | enough | {"note": ""})
    first = [*WHERE, "candidates", "resampled", "other_mask", "overlap", "enough", "enough_pair", "note"]
    agreement = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()
    return pd.DataFrame(rows).reindex(columns=first), agreement


@once
def stability_of(study: AskedStudy) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `measure` finds in a study."""
    return measure(study.frame, study.traces)


def _build(study: AskedStudy, _: Namespace) -> Drawing:
    rows, curves = stability_of(study)
    figure = draw(study.frame, rows, curves, study.title)
    return Drawing(figure, rows, {"fig8_stability_curves": curves})


FIGURE = StudyFigure(
    name="fig8_stability",
    heading="Would other samples have chosen another mask?",
    build=_build,
    section="certainty",
    caption="Left: bootstrap samples that choose another mask. Right: agreement of two disjoint subsets of n "
    "samples. Bars are 95 percent intervals over calibration draws.",
)
