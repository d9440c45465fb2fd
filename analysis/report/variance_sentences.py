"""Sentences on shares of variance, on the agreement of rankings and on the overlap of masks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..data.errors import NothingToRead
from ..figures.ratio_words import ratio_words
from ..figures.style import signed
from ..figures.variance_shares import accuracy
from ..stats import overlap_pairs
from ..stats.estimates import Shares
from ..stats.estimates import refused as refused_shares
from ..stats.frames import each, groups
from ..stats.grid import COMPARISONS
from ..stats.sources import SOURCES
from .phrasing import count, listed, percents, reasons, sentence
from .study_data import StudyData
from .verdicts import HOLDS, OPEN, judged

NAMES = {
    "spearman": "Spearman's rho",
    "kendall": "Kendall's tau",
    "weighted": "weighted tau",
    "kendall_w": "Kendall's W",
}
TESTED = [source.name for source in SOURCES]
CUT = "shares and their intervals are cut off at 0, so shares can add up to more than 100 percent"


def against(m: StudyData) -> Iterator[str]:
    """For each outcome, the shares of calibration and search, with intervals and tests.

    Shares are over all cells, as in figure 5; what they say is judged without objectives for which one-shot is exact
    by construction. After all outcomes, the shares of model and pruning ratio in each outcome's sum of squares.
    """
    by_outcome, table = m.shares
    if not all(math.isnan(shares.parts["search"].value) for shares in by_outcome.values()):
        yield sentence([CUT, f"what they say is judged {m.left_out}" if m.left_out else ""])
    for label, shares in by_outcome.items():
        if math.isnan(shares.parts["search"].value):
            yield sentence([f"{label}: no shares; {shares.note}"])
            continue
        yield sentence([_parts(label, shares), *_verdict(shares, *_judged(m, label))])
        yield _objective(label, shares)
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


def doubtful(m: StudyData, label: str) -> bool:
    """Whether an outcome is an accuracy that its interval decides, although noise alone would do so too often."""
    ratio = m.shares[0][label].total_ratio
    return accuracy(label) and judged(ratio.low, ratio.high, 1.0) != OPEN and m.noise_alone.too_often


def noise(m: StudyData) -> str:
    """How often noise alone leads to a verdict on accuracy, and whether the noise of items was subtracted."""
    alone = m.noise_alone
    studies = f"{alone.decided} of {alone.studies} simulated studies"
    text = f"if all masks were equally accurate, {studies} would be decided"
    subtracted = m.answers.note or "the noise of items is subtracted"
    return f"{text}; {subtracted}"


def _judged(m: StudyData, label: str) -> tuple[Shares, str, str]:
    """The shares by which an outcome is judged, which objectives they leave out, and the doubt (see `_verdict`)."""
    without = listed(sorted(m.by_construction))
    try:
        judge = m.judged.shares[0][label]
    except (NothingToRead, KeyError):
        return refused_shares(0, 0, "no other cell has this outcome"), without, ""
    return judge, without, noise(m.judged) if doubtful(m.judged, label) else ""


def _verdict(shares: Shares, judge: Shares, without: str, doubt: str) -> list[str]:
    """Whether calibration or search explains more variance, judged by the interval of the symmetric ratio of `judge`.

    `without` names the objectives that `judge` leaves out, if any. `doubt` says that noise alone would lead to a
    verdict too often; empty if it would not.
    """
    if math.isnan(shares.total_ratio.value) and math.isnan(shares.total_ratio.low):
        return ["neither calibration nor search is above zero, so there is no ratio"]
    said = [
        f"calibration : search {ratio_words(shares, 'total_ratio')}, with their interaction on both sides"
    ]
    ratio = judge.total_ratio
    said += [f"without {without}, it is {ratio_words(judge, 'total_ratio')}"] if without else []
    if math.isnan(ratio.low):
        return [*said, judge.note or "it has no interval, so it is no evidence"]
    verdict = judged(ratio.low, ratio.high, 1.0)
    if verdict == OPEN:
        return [*said, "the interval contains 1, so it is inconclusive which explains more"]
    if doubt:
        return [*said, f"inconclusive: {doubt}"]
    return [*said, f"so {'calibration' if verdict == HOLDS else 'the search'} explains more here"]


def _objective(label: str, shares: Shares) -> str:
    """The objective against the search and against the draw, and the main effects of calibration and search."""
    parts = []
    if not math.isnan(shares.objective_ratio.low):
        parts = [
            f"objective : search {ratio_words(shares, 'objective_ratio')}, with the interaction on both sides",
            f"objective : draw {ratio_words(shares, 'objective_draw')}",
        ]
    plain = f"without the interaction, calibration : search is {ratio_words(shares, 'ratio')}"
    return sentence([f"{label}: {'; '.join([*parts, plain])}"])


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
