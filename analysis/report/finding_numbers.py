"""The numbers beside the finding at the top of the page."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import pandas as pd

from ..data.errors import NothingToRead
from ..figures.ratio_words import ratio_words
from ..figures.style import number
from ..figures.variance_shares import MASKS, NO_SHARE, unbounded
from ..stats.estimates import IntervalEstimate, Shares
from .phrasing import count, listed
from .study_data import StudyData

T = TypeVar("T")


@dataclass(frozen=True)
class Number:
    """A number, what it is, and how sure it is or what it is taken over."""

    value: str
    label: str
    note: str


def known_numbers(m: StudyData) -> list[Number]:
    """The numbers that the study has the data for, the most telling first."""
    return [found for measure in NUMBERS if (found := tried(measure, m)) is not None]


def tried(measure: Callable[[StudyData], T | None], m: StudyData) -> T | None:
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
