"""The numbers beside the finding at the top of the page."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd

from ..data.errors import NothingToRead
from ..figures.style import number
from ..figures.variance_shares import MASKS, NO_SHARE, ratio_text
from ..stats.common_searches import DIFFERENT
from ..stats.grid import STRATUM
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


def _ratio(m: StudyData) -> Number | None:
    ratio = m.shares[0][MASKS].total_ratio
    if math.isnan(ratio.low):
        return None
    label = "calibration to search: ratio of their shares in the variance of masks, interaction on both sides"
    if ratio.low > NO_SHARE:
        return Number(ratio_text(ratio), label, "all searches find the same masks")
    if math.isinf(ratio.high):
        return Number(ratio_text(ratio), label, "lower end of the 95 percent interval")
    interval = f"95 percent interval {number(ratio.low)} to {number(ratio.high)}"
    return Number(f"{number(ratio.value)} : 1", label, interval)


def _cost(m: StudyData) -> Number | None:
    """The perplexity of the worst objective divided by that of the best one."""
    fair = (m.costs["outcome"] == "ppl") & (m.costs["note"] != DIFFERENT)
    costs = m.costs[fair].dropna(subset="mean")
    by = costs.groupby(STRATUM)["mean"]
    ratios = (by.max() / by.min())[by.count() > 1]
    if ratios.empty:
        return None
    where = f"median over {count(len(ratios), 'combination')} of model and size"
    spread = f"; range {number(ratios.min())} to {number(ratios.max())}" if len(ratios) > 1 else ""
    label = "perplexity if pruned for the worst objective instead of the best"
    return Number(f"× {number(float(ratios.median()))}", label, where + spread)  # noqa: RUF001


def _one_shot(m: StudyData) -> Number | None:
    """In how many problems the best known mask is clearly better than one-shot's, on the same samples."""
    if m.gains.empty:
        return None
    clear = int((m.gains["low"] > 0).sum())
    label = "problems in which the best known mask is clearly better than one-shot's"
    left = f"; without {listed(sorted(m.by_construction))}" if m.by_construction else ""
    return Number(f"{clear} of {len(m.gains)}", label, f"paired on the calibration samples{left}")


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
    _ratio, _cost, _one_shot, perplexity, accuracy, _finished,
)  # fmt: skip
