"""The summary of the report: sentences whose numbers and verdicts are computed here.

A verdict claims no more than its interval or test shows. If there is no interval and no test, the sentence says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..data.errors import NothingToRead
from ..data.metrics import WORDS, standard_error
from ..data.same_data import OTHER
from ..figures.style import number, ordered
from ..stats import sample_sizes
from ..stats.frames import each, groups
from ..stats.grid import SETTING, STRATUM
from ..stats.removal import bare, removed_of
from . import paper_verdicts, perplexity_comparisons, routing, variance_sentences
from .phrasing import count, listed, percent, reasons, sentence, with_interval
from .study_data import StudyData


@dataclass(frozen=True)
class Part:
    """A heading and the sentences below it."""

    heading: str
    sentences: list[str]


def parts(m: StudyData) -> list[Part]:
    """All parts of the summary. If the study lacks the numbers for a part, the part says so."""
    every: dict[str, Callable[[StudyData], Iterator[str]]] = {
        "What was run": ran,
        "The paper's statements": paper_verdicts.claims,
        "Calibration against search": variance_sentences.against,
        "What pruning for one objective costs in other outcomes": costs,
        "Comparison of searches": searches,
        "How far masks and rankings agree": variance_sentences.agreement,
        "How certain a mask is": certainty,
        "What could not be computed, and why": refusals,
    }
    if perplexity_comparisons.compared(m):
        every[perplexity_comparisons.HEADING] = perplexity_comparisons.sentences
    if m.routing:
        every[routing.HEADING] = routing.sentences
    return [Part(heading, _sentences(say, m)) for heading, say in every.items()]


def _sentences(say: Callable[[StudyData], Iterator[str]], m: StudyData) -> list[str]:
    try:
        return list(say(m))
    except NothingToRead as nothing:
        return [sentence([f"not known from this study: {nothing}".rstrip(".")])]


def ran(m: StudyData) -> Iterator[str]:
    """How much of the grid was run, and on which data."""
    frame = m.frame
    status = frame["status"].value_counts()
    lacking = [f"{status[name]:,} {name}" for name in ("failed", "missing", "damaged") if name in status]
    kinds = [
        count(frame[column].dropna().map(bare).nunique(), noun)
        for column, noun in (("model", "model"), ("objective", "objective"), ("algo", "search algorithm"))
    ]
    state = listed([f"{status.get('done', 0):,} finished", *lacking])
    state = state if lacking else "all finished"
    yield sentence(
        [f"the study asks for {count(len(frame), 'cell')}: {state}", f"they cover {listed(kinds)}"]
    )
    draws = m.cells.groupby(["calibration", "samples", "length"], dropna=False)["draw"].nunique()
    for where, n in draws.items():
        source, samples, length = where if isinstance(where, tuple) else (where, np.nan, np.nan)
        size = f"{samples:.0f} samples" + (f" of {length:.0f} tokens" if not np.isnan(float(length)) else "")
        yield sentence([f"calibration data {source}: {size}, drawn {count(int(n), 'time')}"])
    if lacking:
        by = groups(frame[frame["status"] != "done"], ["objective", "algo"])
        combinations = listed(f"{objective} with {algo} ({len(cells)})" for (objective, algo), cells in by)
        yield sentence([f"the unfinished cells are of {combinations}"])


def costs(m: StudyData) -> Iterator[str]:
    """For each model, k and outcome: the best objective, and what pruning for the other objectives costs."""
    if not m.metrics:
        raise NothingToRead("nothing was measured on held-out data")
    if "ppl" in m.metrics:
        yield "Perplexities are geometric means over cells, so that one broken model does not dominate them."
    for (model, k, kind), rows in groups(m.costs, [*STRATUM, "outcome"]):
        cells = m.cells[(m.cells["model"] == model) & (m.cells["k"] == k)]
        where = f"for {bare(str(model))} with {removed_of(cells.iloc[0])}"
        yield _cost(where, str(kind), rows, cells, m)
    if m.frame["objective"].nunique() == 1:
        yield "Only one objective was studied, so the cost of pruning for others is unknown."


def _cost(where: str, kind: str, rows: pd.DataFrame, cells: pd.DataFrame, m: StudyData) -> str:
    metric, sign = m.metrics[kind], -1 if kind == "acc" else 1
    unit = " percent" if kind == "acc" else ""
    known = rows.dropna(subset="mean").sort_values("cost")
    if known.empty:
        return sentence([f"{where}: no finished cell has the {metric.label}"])
    dense, best = float(metric.of(cells, "dense").mean()), known.iloc[0]
    parts = [
        f"{where}: {metric.label} is {'highest' if kind == 'acc' else 'lowest'} when pruned for "
        f"{best['objective']}, {_mean(best, sign)}{unit}",
        f"if nothing is removed, it is {number(dense)}{unit}",
    ]
    others = [_other(row, kind, sign) for row in each(known.iloc[1:])]
    text = "; ".join(parts) + (f". Pruning for {listed(others)}" if others else "")
    if others and (note := str(known.iloc[0]["note"])):
        text += f". These are means {note}"
    error = standard_error(metric, cells)
    worst = float(known["cost"].iloc[-1])
    if others and error is not None:
        text += f". The standard error of one measured {WORDS[kind]} is {number(error)}{' points' if unit else ''}"
        text += ", which is more than any of these differences" if worst < error else ""
    return sentence([text])


def _other(row: object, kind: str, sign: int) -> str:
    """The mean of an objective. Ratios of perplexities have a section of their own."""
    words = f", {number(row.cost)} points less" if kind == "acc" else ""  # type: ignore[attr-defined]
    return f"{row.objective} gives {_mean(row._asdict(), sign)}{words}"  # type: ignore[attr-defined]


def _mean(row: Mapping[str, Any] | pd.Series[Any], sign: int) -> str:
    """A mean with its interval over draws, if there is one. Accuracies have the sign -1."""
    low, high = sorted((sign * float(row["low"]), sign * float(row["high"])))
    mean = sign * float(row["mean"])
    return number(mean) if np.isnan(low) else with_interval(mean, low, high)


def searches(m: StudyData) -> Iterator[str]:
    """How near each algorithm came to the loss of the best known mask, and how many scores it asked for.

    Objectives for which one-shot is exact by construction are left out: there, every search finds the best mask.
    """
    if m.cells["algo"].nunique() < 2:
        yield "Only one search algorithm was studied, so there is nothing to compare."
        return
    if m.left_out:
        yield sentence([f"searches are compared {m.left_out}"])
    cells = m.judged.regrets
    problems = cells.groupby([*STRATUM, *SETTING], dropna=False)["exact"].any()
    yield sentence(
        [
            f"enumeration gives the exact best mask in {int(problems.sum())} of "
            f"{count(len(problems), 'problem')}",
            "in the others it is the best mask that any search scored, so regret is a lower bound",
            "a standard error is that of the paired difference from the best known mask on the same samples, on "
            "which that mask was chosen",
        ]
    )
    for algo in ordered(cells["algo"]):
        rows = cells[cells["algo"] == algo]
        errors = rows["regret_se"].dropna()
        at_best = int((rows["regret"] <= 1e-9).sum())
        text = f"the search {algo} found the best known mask in {at_best} of {count(len(rows), 'cell')}"
        if len(errors):
            mean, most = number(errors.mean()), number(errors.max())
            text += f"; its mean regret is {mean} standard errors, the maximum {most}"
        yield sentence([text, f"it asked for {number(rows['asked'].astype(float).mean())} scores on average"])


def certainty(m: StudyData) -> Iterator[str]:
    """How many masks tie with the chosen one, and whether other samples would give the same mask."""
    known = m.cells.dropna(subset="tied")
    if len(known):
        tied = int((known["tied"] > 0).sum())
        yield sentence(
            [
                f"in {tied} of {count(len(known), 'cell')}, some other scored mask is not significantly worse than "
                f"the chosen one (level 0.05, corrected for the number of masks compared)",
                f"the median number of such masks is {known['tied'].median():.0f}",
            ]
        )
    else:
        yield "No result has margins, so ties are unknown."
    yield from _sizes(m)
    rows = m.stability[0].dropna(subset="other_mask")
    for samples, part in groups(rows, "samples"):
        yield sentence(
            [
                f"if {samples:,.0f} calibration samples are resampled, the last decision of a search gives another "
                f"mask in {percent(part['other_mask'].mean())} percent of resamples (mean over "
                f"{count(len(part), 'cell')})",
                f"in {int(part['enough_pair'].notna().sum())} of these cells, two disjoint halves of the samples "
                f"choose the same mask at least nine times out of ten",
            ]
        )


def _sizes(m: StudyData) -> Iterator[str]:
    """How the overlap of two draws changes with the number of samples."""
    for (objective, model, k, data, length, *_), rows in groups(m.sizes, sample_sizes.FAMILY):
        alike = m.cells[(m.cells["model"] == model) & (m.cells["k"] == k)]
        overlaps = [
            f"{with_interval(row.corrected, row.low, row.high)} with {row.samples:,.0f}" for row in each(rows)
        ]
        of = "items" if pd.isna(length) else f"windows of {length:,.0f} tokens"
        yield sentence(
            [
                f"for {bare(str(model))} with {removed_of(alike.iloc[0])} for {objective} on {data}, masks of two "
                f"draws overlap, corrected for chance, by {listed(overlaps)} {of}"
            ]
        )


def refusals(m: StudyData) -> Iterator[str]:
    """Every statistic that could not be computed, and why."""
    reasons_given = list(variance_sentences.refused(m))
    every = count(len(m.cells), "cell")
    for name in (name for metric in m.metrics.values() for name in metric.others):
        having = int(m.cells[f"pruned/{name}"].notna().sum())
        reasons_given.append(sentence([f"means do not include {name}: only {having:,} of {every} have it"]))
    for name, cells in groups(m.cells.dropna(subset=OTHER), OTHER):
        left = f"{name} of {count(len(cells), 'cell')} was measured on other data than that of most cells: left out"
        reasons_given.append(sentence([left]))
    notes = m.stability[0]["note"].fillna("")
    if reason := reasons(notes):
        reasons_given.append(sentence([f"stability: {reason}"]))
    if lacking := int(m.regrets["regret_se"].isna().sum()):
        without = f"{count(lacking, 'cell')} without losses that can be paired"
        reasons_given.append(sentence([f"regret in standard errors: {without}"]))
    yield from reasons_given or ["Nothing: every statistic of the figures could be computed."]
