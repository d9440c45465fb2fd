"""Figure 5: the share of each outcome's variance that is due to calibration, divided by the share due to the search.

The outcomes are the mask (Jaccard distance), the calibration loss minus that of the dense model, the logarithm of
held-out perplexity, and accuracy. The CSV has the shares, clipped to 0 and 1, and the components, which can be
negative.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ..data.archive import NothingToRead
from ..data.load import choose, done, names
from ..data.study import AskedStudy, answers
from ..stats import components
from ..stats.components import IntervalEstimate, Shares, item_noise
from ..stats.grid import STRATUM
from ..stats.means import rivals
from . import style
from .cli import Drawing, StudyFigure
from .style import GREY, INK, LINE, Rows, number, rows_of

LEAST, MOST = 0.05, 100.0  # limits of the axis
Ratios = Mapping[str, Mapping[str, IntervalEstimate]]


def ratios(by_outcome: Mapping[str, Shares]) -> Ratios:
    """For each outcome, those ratios of shares that are known: calibration / search and objective / search."""
    found = {}
    for label, one in by_outcome.items():
        both = {"calibration : search": one.total_ratio, f"{one.objective} : search": one.objective_ratio}
        found[label] = {name: r for name, r in both.items() if not np.isnan([r.low, r.value]).all()}
    return found


def draw(found: Ratios, title: str = "How much more calibration decides than the search") -> Figure:
    """A forest plot: each ratio of each group with its interval, on a log axis with a line at 1."""
    rows = Rows.of({group: [*ratios] or ["no ratio"] for group, ratios in found.items()})
    note = "ratio of shares of variance within model and size, with interactions on both sides; lines: 95 % "
    note += "intervals; an arrow: the line goes on, because a share may be 0"
    figure, ((axes,),) = style.page(1, 1, rows.height * LINE * 1.2 + 0.6, title, note)
    known = [
        (rows.lines[group, name], one) for group, ratios in found.items() for name, one in ratios.items()
    ]
    ends = np.array([(one.low, one.value, one.high) for _, one in known]).reshape(-1)
    low, high = (np.nanmin([0.5, *ends]) / 1.3, np.nanmax([2.0, *ends]) * 1.3)
    low, high = max(float(low), LEAST), min(float(high), MOST)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.axvline(1, color=INK, lw=0.8, zorder=0)
    for y, one in known:
        if one.low < NO_SHARE or one.value < NO_SHARE:
            shown = one.value if low < one.value < high else np.nan
            style.dots(axes, shown, y, (max(one.low, low), min(one.high, high)), INK)
            for place, sign, beyond in ((low, "<", one.low < low), (high, ">", one.high > high)):
                if beyond:
                    axes.plot(place, y, sign, color=INK, ms=4, clip_on=False)
        axes.text(1.03, y, ratio_text(one), transform=axes.get_yaxis_transform(), va="center_baseline")
    rows.name(axes)
    for words, side, away in (
        ("the search decides more", "right", -6),
        ("calibration decides more", "left", 6),
    ):
        beside = axes.annotate(words, (1, -0.9), (away, 0), textcoords="offset points", ha=side, color=GREY)
        beside.set_annotation_clip(False)
    style.plain_log(axes.xaxis)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("ratio")
    return figure


# Ratios of shares as text. If a ratio has no upper end, only its lower end is shown.

NO_SHARE = 1e9  # if a ratio is above this, its denominator is 0 up to rounding


def ratio_text(ratio: IntervalEstimate) -> str:
    """A ratio with its interval as text, for a table that also has the shares.

    If the interval has no upper end, only the lower end is shown. If the denominator is 0 in all resamples,
    up to rounding errors, the text is `no ratio`.
    """
    if ratio.low > NO_SHARE or (np.isnan(ratio.low) and ratio.value > NO_SHARE):
        return "no ratio"
    if np.isnan(ratio.low):
        return number(ratio.value)
    if ratio.high > NO_SHARE:  # the interval has no upper end
        if ratio.low == 1:  # both sides may consist of the interaction only
            return "at least 1"
        return f"above {number(ratio.low)}" if ratio.low > 0 else "not determined"
    return f"{number(ratio.value)} ({number(ratio.low)} to {number(ratio.high)})"


# The numbers of the figure: shares of variance of four outcomes, with intervals.

LOSS, MASKS = "calibration loss", "masks"
TABLE = ["outcome", "source", "share", "low", "high", "df", "component", "note"]


def is_accuracy(label: str) -> bool:
    """Whether an outcome is an accuracy."""
    return label not in (MASKS, LOSS) and not label.startswith("log ")


@cache
def shares_of(
    study: AskedStudy, perplexity: str | None, accuracy: str | None
) -> tuple[dict[str, Shares], pd.DataFrame]:
    """Shares of each outcome's variance, and one table of all numbers. Leaves out the exhaustive search.

    Perplexity and accuracy are outcomes only if they were measured. An accuracy has noise, because a task's items are
    a sample; this noise is subtracted from the sums of squares. If the answers to single items were not kept, the
    noise is unknown, and the accuracy gets no shares. Raises NothingToRead if a named metric was not measured.
    """
    frame = done(study.frame)
    cells, items, lacking = rivals(frame), dict[str, Any](), ""
    # For each outcome, one value per cell (None if the outcome is the mask), and the columns of its strata.
    outcomes: dict[str, tuple[Any, list[str]]] = {
        MASKS: (None, STRATUM),
        LOSS: (cells["loss"] - cells["dense_loss"], [*STRATUM, "objective"]),
    }
    if perplexity or names(frame, "ppl"):
        ppl = choose(frame, "ppl", perplexity)
        outcomes[f"log {ppl.label}"] = (np.log(ppl.of(cells)), STRATUM)
    if accuracy or names(frame, "acc"):
        acc = choose(frame, "acc", accuracy)
        outcomes[acc.label] = (acc.of(cells), STRATUM)
        items, lacking = answers(study.results, list(frame["cell"]), acc.names)
    found, parts = {}, []
    for label, (values, by) in outcomes.items():
        values = None if values is None else values.dropna()
        use = cells if values is None else cells.loc[values.index]
        rows, use = use.index.to_numpy(), use.reset_index(drop=True)
        if is_accuracy(label) and not items:
            shares = components.refused(lacking)
        else:
            noise = None
            if is_accuracy(label):
                noise = item_noise({task: right[rows] for task, right in items.items()})
            of = components.coordinates(use, values, by)
            shares = components.Design(use, by).shares(of, items=noise)
        found[label] = shares
        totals: dict[str, IntervalEstimate] = {
            **shares.parts,
            "calibration : search": shares.total_ratio,
            f"{shares.objective} : search": shares.objective_ratio,
        }
        first = [{"source": n, "share": e.value, "low": e.low, "high": e.high} for n, e in totals.items()]
        both = pd.DataFrame([*first, *shares.sources.to_dict("records")])
        parts.append(both.assign(outcome=label, note=shares.note))
    return found, pd.concat(parts, ignore_index=True).reindex(columns=TABLE)


def calibration_perplexity(frame: pd.DataFrame) -> Shares:
    """Shares of variance of ln(pruned / dense calibration perplexity), in cells pruned for perplexity.

    Data sets differ in perplexity even for the dense model, so only the rise above the dense model's perplexity
    shows the effect of removal. Raises NothingToRead if no cell was pruned for perplexity.
    """
    cells = rows_of(frame, objective="perplexity")
    if cells.empty:
        raise NothingToRead("no cell was pruned for perplexity.")
    cells = rivals(cells).reset_index(drop=True)
    return components.Design(cells).shares(components.coordinates(cells, cells["loss"] - cells["dense_loss"]))


def _build(study: AskedStudy, given: Namespace) -> Drawing:
    by_outcome, table = shares_of(study, given.perplexity, given.accuracy)
    if not any(ratios(by_outcome).values()):
        notes = dict.fromkeys(shares.note for shares in by_outcome.values())
        raise NothingToRead(f"no ratio of shares can be computed: {'; '.join(filter(None, notes))}.")
    return Drawing(draw(ratios(by_outcome)), table)


FIGURE = StudyFigure(
    name="fig5_variance_shares",
    heading="Does calibration or search explain more variance?",
    build=_build,
    metrics=True,
    section="variance",
    caption="Ratios of the shares of variance of four outcomes, with intervals, within one model and one number of "
    "removed blocks. Right of 1, calibration or the objective decides more than the search.",
)
