"""Figure 8: how often other calibration samples would give another mask, computed from losses in the traces."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.load import done
from ..data.study import AskedStudy
from ..stats import stability
from ..stats.crossed import Trace
from ..stats.grid import STRATUM, budgets, groups, strata_of
from ..stats.means import CellDraws, over_draws
from . import style
from .cli import Drawing, StudyFigure
from .style import LINE, Rows, counted, named, rows_of

WHERE = ["cell", *STRATUM, "objective", "calibration", "samples", "length", "draw", "algo"]


def draw(rows: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Two panels for each model and size: above, a row for each search; below, curves over numbers of samples."""
    strata, lines = strata_of(rows), Rows.of_cells(rows)
    note = "means over cells, 95 % intervals over draws; above: bootstrapped calibration samples that choose another "
    note += "mask; below: two disjoint subsets of one draw that choose the same mask, over all searches"
    for (objective, why), cells in groups(rows[rows["other_mask"].isna()], ["objective", "note"]):
        note += f"; left out: {counted(len(cells), 'cell')} of {named(objective)}, where {why}"
    if (rows.groupby("objective")["samples"].nunique() > 1).any():
        note += "; cells with different numbers of samples are pooled"
    heights = [lines.height * LINE + 0.5, 1.6]
    figure, grid = style.page(
        2,
        len(strata),
        sum(heights) / 2,
        "Would other samples have chosen another mask?",
        note,
        height_ratios=heights,
    )
    drawn = CellDraws.of(rows)
    for above, below, (model, k) in zip(*grid, strata, strict=True):
        known = rows_of(rows, model=model, k=k).dropna(subset="other_mask")
        for (objective, algo), own in groups(known, ["objective", "algo"]):
            mean, *ends = _percent(own["other_mask"], drawn)
            style.dots(above, mean, lines.lines[objective, algo], (ends[0], ends[1]), style.colour(objective))
        lines.name(above, above is grid[0][0])
        above.set(xlim=(-4, 104), xticks=(0, 50, 100), xlabel="another mask, %")
        above.grid(axis="x", color="0.94", lw=0.6)
        above.set_title(style.stratum(model, k, len(strata) > 3))
        of_size = rows_of(curves, model=model, k=k) if len(curves) else curves
        _curves(below, of_size.reset_index(drop=True))
    grid[1][0].set_ylabel("same mask, %")
    return figure


def _percent(values: pd.Series[float], drawn: CellDraws) -> tuple[float, float, float]:
    """The mean of shares in percent, with its interval clipped to 0 and 100. `drawn` has each row's draw."""
    mean = over_draws(100 * values.astype(float), drawn.take(values.index.to_numpy()))
    low, high = np.clip([mean.low, mean.high], 0, 100)
    return mean.mean, float(low), float(high)


def _curves(axes: Axes, lines: pd.DataFrame) -> None:
    if lines.empty:
        style.empty(axes, "no last decision in the traces")
        return
    names, drawn = style.objectives(lines["objective"]), CellDraws.of(lines)
    axes.set_xscale("log", base=2)
    for i, objective in enumerate(names):
        hue, of_size = style.colour(objective), list(groups(rows_of(lines, objective=objective), "n"))
        means, low, high = zip(*(_percent(part["pair"], drawn) for _, part in of_size), strict=True)
        x = [n * 2.0 ** (0.06 * (i - (len(names) - 1) / 2)) for n, _ in of_size]  # objectives side by side
        axes.plot(x, means, color=hue)
        style.dots(axes, x, means, (low, high), hue, upright=True)
    sizes = sorted(lines["n"].unique())
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()
    axes.set(ylim=(-4, 104), yticks=(0, 50, 100), xlabel="samples in a subset")


# The numbers of the figure.


def measure(frame: pd.DataFrame, traces: Mapping[str, Trace]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two frames: how often resampling changes a cell's mask; how often two subsets of n samples give equal masks."""
    rows, curves = list[dict[Any, Any]](), dict[str, pd.DataFrame]()
    cells = done(frame)
    for where, budget in zip(cells[WHERE].to_dict("records"), budgets(cells), strict=True):
        trace = traces[where["cell"]]
        decision = stability.last_decision(trace, int(where["k"]), budget)
        if decision is None:
            rows.append(where | {"note": stability.refusal(trace)})
            continue
        curves[where["cell"]] = stability.curve(decision)
        sizes = {"candidates": len(decision.candidates), "resampled": decision.losses.shape[1]}
        rows.append(where | sizes | {"other_mask": stability.resampled(decision), "note": ""})
    table = pd.DataFrame(rows, columns=[*WHERE, "candidates", "resampled", "other_mask", "note"])
    if not curves:
        return table, pd.DataFrame()
    agreement = pd.concat(curves, names=["cell"]).reset_index("cell")
    return table, agreement.merge(cells[WHERE], on="cell")


@cache
def stability_of(study: AskedStudy) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two frames of `measure` for a study."""
    return measure(study.frame, study.journals.traces)


def _build(study: AskedStudy, _: Namespace) -> Drawing:
    rows, curves = stability_of(study)
    return Drawing(draw(rows, curves), rows, {"fig8_stability_curves": curves})


FIGURE = StudyFigure(
    name="fig8_stability",
    heading="Would other samples have chosen another mask?",
    build=_build,
    section="certainty",
    caption="Above: bootstrap samples that choose another mask. Below: how often two disjoint subsets of n samples "
    "choose the same mask. Lines are 95 percent intervals over calibration draws.",
)
