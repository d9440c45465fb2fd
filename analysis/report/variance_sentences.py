"""Sentences on shares of variance, on the agreement of rankings and on the overlap of masks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..data.errors import NothingToRead
from ..figures.style import signed
from ..stats import overlap_pairs
from ..stats.estimates import Shares
from ..stats.frames import each, groups
from ..stats.grid import COMPARISONS
from ..stats.sources import SOURCES
from .phrasing import count, listed, percents, reasons, sentence, times
from .study_data import StudyData

NAMES = {
    "spearman": "Spearman's rho",
    "kendall": "Kendall's tau",
    "weighted": "weighted tau",
    "kendall_w": "Kendall's W",
}
TESTED = [source.name for source in SOURCES]


def against(m: StudyData) -> Iterator[str]:
    """For each outcome, the shares of calibration and search, with intervals and tests.

    After all outcomes, the shares of model and pruning ratio in each outcome's sum of squares.
    """
    by_outcome, table = m.shares
    for label, shares in by_outcome.items():
        if math.isnan(shares.parts["search"].value):
            yield sentence([f"{label}: no shares; {shares.note}"])
            continue
        yield sentence([_parts(label, shares), *_verdict(shares)])
        yield _tested(label, table[table["outcome"] == label])
    for label, rows in groups(m.across.dropna(subset="share"), "outcome"):
        shown = rows[rows["source"].isin(("model", "ratio"))].sort_values("share", ascending=False)
        words = [
            f"the {row.source} explains {percents(row.share, row.low, row.high)}{_chance(row.q)}"
            for row in each(shown)
        ]
        if words:
            yield sentence([f"{label} over all cells: {listed(words)} of the sum of squares"])


def _chance(q: float) -> str:
    """The q of a test, in brackets. If the test is not significant, the text says so."""
    return " (not tested)" if math.isnan(q) else f" (q {q:.2g}{'' if q <= 0.05 else ', not significant'})"


def _parts(label: str, shares: Shares) -> str:
    named = {
        "calibration": "calibration",
        "search": "the search",
        "interaction": "interaction and the rest",
    }
    words = [
        f"{text} {percents(e.value, e.low, e.high)}"
        for name, text in named.items()
        for e in [shares.parts[name]]
    ]
    return f"{label}, variance within one model and size: {listed(words)}"


def _verdict(shares: Shares) -> list[str]:
    """Whether calibration or search explains more variance, judged by the interval of `shares.ratio`."""
    ratio = shares.ratio
    if math.isnan(ratio.value):
        return ["neither calibration nor search is above zero, so there is no ratio"]
    if math.isinf(ratio.value):
        text = "the search's share is not above zero, so the ratio of calibration to search is infinite"
    else:
        text = f"calibration is {times(ratio.value)} times the search"
    if math.isnan(ratio.low):
        return [text, shares.note or "it has no interval, so it is no evidence"]
    text += f" (95 percent interval {times(ratio.low)} to {times(ratio.high)})"
    if ratio.low > 1:
        return [f"{text}, so calibration explains more here"]
    if ratio.high < 1:
        return [f"{text}, so the search explains more here"]
    return [f"{text}; the interval contains 1, so this study does not show which explains more"]


def _tested(label: str, rows: pd.DataFrame) -> str:
    """Which sources of variance are significant in permutation tests."""
    tests = rows[rows["source"].isin(TESTED)].dropna(subset="q")
    if tests.empty:
        return sentence([f"{label}: no source could be tested"])
    strong = [f"{s} (q {q:.2g})" for s, q in zip(tests["source"], tests["q"], strict=True) if q <= 0.05]
    weak = [str(s) for s, q in zip(tests["source"], tests["q"], strict=True) if q > 0.05]
    significant = f"{label}, significant at a false discovery rate of 0.05: {listed(strong) or 'none'}"
    return sentence([significant, f"not significant: {listed(weak)}" if weak else ""])


def agreement(m: StudyData) -> Iterator[str]:
    """Overlap of masks, and agreement of perplexity ranks and accuracy ranks."""
    pairs = m.overlaps
    means = {name: pairs.loc[pairs["comparison"] == name, "corrected"].dropna() for name in COMPARISONS}
    words = [
        f"{v.mean():.2f} if only {name} differ ({len(v):,} pairs)" for name, v in means.items() if len(v)
    ]
    if words:
        said = f"corrected overlap of masks (0 is chance, 1 is equality): {listed(words)}"
        yield sentence([said, overlap_pairs.note(m.cells)])
    correlations = spearman(m)
    known = correlations.dropna(subset="value")
    if known.empty:
        yield sentence(
            [f"no panel has a correlation of perplexity and accuracy ranks: {reasons(correlations['note'])}"]
        )
        return
    significant = int((known["q"] <= 0.05).sum())
    yield sentence(
        [
            f"Spearman's correlation of perplexity rank and accuracy rank over searches is between "
            f"{signed(known['value'].min())} and {signed(known['value'].max())} "
            f"in {count(len(known), 'panel')}, median {signed(known['value'].median())}",
            f"at a false discovery rate of 0.05, {significant or 'none'} of them can be distinguished from chance",
        ]
    )


def spearman(m: StudyData) -> pd.DataFrame:
    """Spearman's correlation of perplexity rank and accuracy rank, for each panel over all searches of the panel."""
    every = m.agreements
    return every[(every["statistic"] == "spearman") & (every["masks"] == "all")]


def refused(m: StudyData) -> Iterator[str]:
    """Which shares of variance, tests and statistics of rank agreement could not be computed, and why."""
    try:
        by_outcome, table = m.shares
    except NothingToRead as nothing:
        yield sentence([f"shares of variance: {nothing}".rstrip(".")])
    else:
        for label, shares in by_outcome.items():
            if shares.note:
                yield sentence([f"shares of variance of {label}: {shares.note}"])
        notes = table.loc[table["p"].isna() & table["source"].isin(TESTED)]
        for source, rows in notes.groupby("source", sort=False):
            if reason := reasons(rows["p_note"].replace(np.nan, "")):
                yield sentence([f"the test of {source}: {reason}"])
    try:
        lacking = m.agreements
    except NothingToRead as nothing:
        yield sentence([f"rank agreement: {nothing}".rstrip(".")])
        return
    for (name, of), rows in lacking[lacking["value"].isna()].groupby(["statistic", "of"], sort=False):
        yield sentence(
            [f"{NAMES.get(str(name), name)} of {str(of).replace(', ', ' and ')}: {reasons(rows['note'])}"]
        )
