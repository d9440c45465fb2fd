"""The top of the page: the finding in one sentence, three numbers, and one picture.

The sentence claims no more than its interval shows. If a study lacks the data for one finding, the next one is taken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pandas as pd
from markupsafe import Markup

from pruning.core.mask import unit_noun

from ..data.archive import NothingToRead
from ..figures.fig5_variance_shares import MASKS, NO_SHARE, ratio_words, unbounded
from ..figures.style import number, ordered
from ..stats.components import DRAWN, IntervalEstimate, Shares
from ..stats.grid import STRATUM, at, bare, groups, mask_of, noun, removed, removed_of
from .cells import strip
from .study_data import FAILS, HOLDS, OPEN, StudyData, count, judged, listed, percents, sentence

T = TypeVar("T")
LOW, HIGH = 0.0, 1.0  # the ends of the picture's axis


@dataclass(frozen=True)
class Bar:
    """One share in the picture: its text, and the positions of value and interval in percent of the axis."""

    name: str
    text: str
    at: float
    low: float
    width: float


@dataclass(frozen=True)
class Finding:
    """The top of the page. `bars` are the picture if shares of variance are known; otherwise `strips` are."""

    headline: str
    detail: str
    numbers: list[Number]
    bars: list[tuple[str, list[Bar]]] = field(default_factory=list)
    strips: list[tuple[str, Markup, str]] = field(default_factory=list)
    strips_of: str = ""  # the model, size and objective of the strips
    squares: str = ""  # what their squares are
    zero: float = 100 * -LOW / (HIGH - LOW)


def finding(m: StudyData) -> Finding:
    """The top of the page for a study."""
    numbers = known_numbers(m)[:3]
    bars = tried(_bars, m) or []
    for say in (_variance, _objectives, _damage):
        if said := tried(say, m):
            return Finding(*said, numbers, bars) if bars else _with_strips(m, *said, numbers)
    done = f"{len(m.cells):,} of {count(len(m.frame), 'cell')} are finished"
    return _with_strips(m, done, "The study has no held-out measurements.", numbers)


def _variance(m: StudyData) -> tuple[str, str] | None:
    """Whether calibration or search decides the mask, if the symmetric ratio of their variances has an interval."""
    shares = m.judged.shares[0][MASKS]
    ratio, calibration, search = shares.total_ratio, shares.parts["calibration"], shares.parts["search"]
    if math.isnan(ratio.low):
        return None
    units = noun(m.cells)
    text = {
        HOLDS: f"Which {units} are removed depends more on the calibration than on the search",
        FAILS: f"Which {units} are removed depends more on the search than on the calibration",
        OPEN: f"This study does not show whether calibration or search matters more for the choice of {units}",
    }[judged(ratio.low, ratio.high, 1.0)]
    parts = [percents(e.value, e.low, e.high) for e in (calibration, search)]
    detail = (
        "Calibration means the objective, its data and the draw of the samples. Within one model and size, it "
        f"explains {parts[0]} of the variance of masks, and the search algorithm explains {parts[1]}."
    )
    left = f" Shares are cut off at 0; they are {m.left_out}." if m.left_out else " Shares are cut off at 0."
    return text, detail + _inside(shares) + left


def _inside(shares: Shares) -> str:
    """What the calibration's share is made of: objective and draw."""
    if math.isnan(shares.objective_draw.low):
        return ""
    rows = shares.sources.set_index("source")
    objective, draw = (
        percents(*(at(rows, name, column) for column in ("share", "low", "high")))
        for name in ("objective", DRAWN)
    )
    return f" Of the calibration, the objective explains {objective} and the draw {draw}."


def _objectives(m: StudyData) -> tuple[str, str] | None:
    """Which objective gives the lowest perplexity."""
    costs = m.costs[m.costs["outcome"] == "ppl"].dropna(subset="mean")
    costs = costs[costs.groupby(STRATUM)["objective"].transform("nunique") > 1]
    if costs.empty:
        return None
    best = {str(part.sort_values("mean")["objective"].iloc[0]) for _, part in groups(costs, STRATUM)}
    strata = count(costs.groupby(STRATUM).ngroups, "combination")
    detail = sentence([f"means over all finished cells, in {strata} of model and size; no test was made"])
    if len(best) > 1:
        return "No objective gives the lowest perplexity everywhere", detail
    return f"Masks that were pruned for {best.pop()} have the lowest perplexity", detail


def _damage(m: StudyData) -> tuple[str, str] | None:
    """What removing blocks does to perplexity or to accuracy."""
    which = sorted(
        {re.sub(r" removed(, (.*))?", _in_parentheses, removed_of(row)) for _, row in m.cells.iterrows()}
    )
    found = perplexity(m) or accuracy(m)
    if found is None:
        return None
    what = "multiplies perplexity by" if "ppl" in m.metrics else "changes accuracy by"
    value = found.value.removeprefix("× ")  # noqa: RUF001
    return f"Removing {which[0] if len(which) == 1 else noun(m.cells)} {what} {value}", sentence([found.note])


def _in_parentheses(found: re.Match[str]) -> str:
    return f" ({found[2]})" if found[2] else ""


def _bars(m: StudyData) -> list[tuple[str, list[Bar]]]:
    """For each outcome, the shares of calibration and of search."""
    return [
        (label, [_bar(name, shares.parts[name]) for name in ("calibration", "search")])
        for label, shares in m.judged.shares[0].items()
        if not math.isnan(shares.parts["search"].value)
    ]


def _bar(name: str, share: IntervalEstimate) -> Bar:
    at, low, high = (_position(v) for v in (share.value, share.low, share.high))
    width = 0.0 if math.isnan(share.low) else high - low
    return Bar(name, percents(share.value, share.low, share.high), at, low if width else at, width)


def _position(value: float) -> float:
    return round(100 * (min(max(value, LOW), HIGH) - LOW) / (HIGH - LOW), 2)


def _with_strips(m: StudyData, headline: str, detail: str, numbers: list[Number]) -> Finding:
    """The top of the page with one mask of each search of the first model, size and objective."""
    where = ["model", "k", "objective"]
    first = m.cells.sort_values(where).iloc[0]
    same = m.cells[(m.cells[where] == first[where]).all(axis=1)]
    words = f"{bare(first['model'])}, {removed(first)}, pruned for {first['objective']}"
    unit = unit_noun(mask_of(first).unit)
    strips = list(_rows(m, same.drop_duplicates("algo").set_index("algo", drop=False)))
    return Finding(headline, detail, numbers, [], strips, words, unit)


def _rows(m: StudyData, cells: pd.DataFrame) -> Iterator[tuple[str, Markup, str]]:
    for algo in ordered(cells["algo"])[:8]:
        row = cells.loc[[algo]]
        values = [f"{metric.label} {number(float(metric.of(row).iloc[0]))}" for metric in m.metrics.values()]
        yield algo, strip(mask_of(row.iloc[0])), ", ".join(values)


# The numbers beside the finding at the top of the page.

Known = TypeVar("Known")


@dataclass(frozen=True)
class Number:
    """A number, what it is, and how sure it is or what it is taken over."""

    value: str
    label: str
    note: str


def known_numbers(m: StudyData) -> list[Number]:
    """The numbers that the study has the data for, the most telling first."""
    return [found for measure in NUMBERS if (found := tried(measure, m)) is not None]


def tried(measure: Callable[[StudyData], Known | None], m: StudyData) -> Known | None:
    """What `measure` finds; None if the study lacks the data for it."""
    try:
        return measure(m)
    except NothingToRead:
        return None


def _calibration(m: StudyData) -> Number | None:
    """Calibration against the search, in masks."""
    return _against_search(m, "total_ratio", "calibration")


def _objective(m: StudyData) -> Number | None:
    """The objective alone against the search, and against the draw of the samples, in masks."""
    found = _against_search(m, "objective_ratio", "objective")
    if found is None:
        return None
    return replace(found, note=f"{found.note}; objective : draw {ratio_words(_masks(m), 'objective_draw')}")


def _masks(m: StudyData) -> Shares:
    return m.judged.shares[0][MASKS]


def _against_search(m: StudyData, name: str, first: str) -> Number | None:
    """A ratio with the search on its second side, if it has an interval, over the cells that verdicts are about."""
    shares = _masks(m)
    ratio: IntervalEstimate = getattr(shares, name)
    if math.isnan(ratio.low):
        return None
    label = f"{first} to search: ratio of their shares in the variance of masks, interaction on both sides"
    value, note = (
        f"{number(ratio.value)} : 1",
        f"95 percent interval {number(ratio.low)} to {number(ratio.high)}",
    )
    if ratio.low > NO_SHARE:
        value, note = "no ratio", "all searches find the same masks"
    elif unbounded(ratio):
        value, _, bounds = ratio_words(shares, name).partition(" (")
        note = f"lower end of the 95 percent interval; {bounds.removesuffix(')')}"
    return Number(value, label, note + _without(m))


def _without(m: StudyData) -> str:
    return f"; without {listed(sorted(m.by_construction))}" if m.by_construction else ""


def _cost(m: StudyData) -> Number | None:
    """The perplexity of the worst objective divided by that of the best one."""
    found = m.relative.extremes
    if found.empty:
        return None
    values, first = found["value"], found.iloc[0]
    if len(found) > 1:
        where = f"median over {count(len(found), 'combination')} of model and size"
        note = f"{where}; range {number(values.min())} to {number(values.max())}"
    else:
        ends = f"95 percent interval {number(first['low'])} to {number(first['high'])}"
        interval = "no interval" if math.isnan(first["low"]) else ends
        note = f"{first['worst']} instead of {first['best']}; {interval}"
    label = "perplexity if pruned for the worst objective instead of the best"
    return Number(f"× {number(float(values.median()))}", label, note)  # noqa: RUF001


def _one_shot(m: StudyData) -> Number | None:
    """In how many problems the best known mask is clearly better than one-shot's, on the same samples."""
    gains = m.judged.gains
    if gains.empty:
        return None
    clear = int((gains["low"] > 0).sum())
    label = "problems in which the best known mask is clearly better than one-shot's"
    return Number(f"{clear} of {len(gains)}", label, f"paired on the calibration samples{_without(m)}")


def perplexity(m: StudyData) -> Number | None:
    """How many times higher the perplexity of the pruned models is than that of the dense ones."""
    if "ppl" not in m.metrics:
        return None
    metric = m.metrics["ppl"]
    ratios = (metric.of(m.cells) / metric.of(m.cells, "dense")).dropna()
    return _over(ratios, f"× {number(float(ratios.median()))}", metric.label) if len(ratios) else None  # noqa: RUF001


def accuracy(m: StudyData) -> Number | None:
    """By how many points the accuracy of the pruned models differs from that of the dense ones."""
    if "acc" not in m.metrics:
        return None
    metric = m.metrics["acc"]
    change = (metric.of(m.cells) - metric.of(m.cells, "dense")).dropna()
    value = f"{float(change.median()):+.1f} points".replace("-", "−")  # noqa: RUF001
    return _over(change, value, metric.label) if len(change) else None


def _over(known: pd.Series[float], value: str, label: str) -> Number:
    note = f"one cell, on {label}"
    if len(known) > 1:
        note = (
            f"median over {count(len(known), 'cell')}; range {number(known.min())} to {number(known.max())}"
        )
    return Number(value, f"{label}, pruned against dense", note)


def _finished(m: StudyData) -> Number:
    note = "nothing is missing" if len(m.cells) == len(m.frame) else "the others are in the list of cells"
    return Number(f"{len(m.cells):,} of {len(m.frame):,}", "cells are finished", note)


NUMBERS: tuple[Callable[[StudyData], Number | None], ...] = (
    _calibration, _objective, _cost, _one_shot, perplexity, accuracy, _finished,
)  # fmt: skip
