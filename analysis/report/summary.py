"""The summary of the report: plain sentences, every number and every judgement of which is computed here.

A sentence never says more than its interval or its test does; where there is neither, it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pruning.core.metric_names import error_of

from ..data.errors import NothingToRead
from ..data.metrics import WORDS
from ..figures.style import number, ordered
from ..stats.frames import each, groups
from ..stats.grid import SETTING, STRATUM
from . import paper_verdicts, variance_sentences
from .phrasing import count, listed, percent, reasons, sentence
from .study_data import StudyData


@dataclass(frozen=True)
class Part:
    """A heading and the sentences below it."""

    heading: str
    sentences: list[str]


def parts(m: StudyData) -> list[Part]:
    """The whole summary. A part whose numbers the study does not hold says that instead."""
    every: dict[str, Callable[[StudyData], Iterator[str]]] = {
        "What was run": ran,
        "The paper's statements": paper_verdicts.claims,
        "Calibration against search": variance_sentences.against,
        "What pruning for one thing costs in the other": costs,
        "Which search": searches,
        "How far masks and rankings agree": variance_sentences.agreement,
        "How sure a mask is": certainty,
        "What is refused, and why": refusals,
    }
    return [Part(heading, _said(say, m)) for heading, say in every.items()]


def _said(say: Callable[[StudyData], Iterator[str]], m: StudyData) -> list[str]:
    try:
        return list(say(m))
    except NothingToRead as nothing:
        return [sentence([f"not told by this study: {nothing}".rstrip(".")])]


def ran(m: StudyData) -> Iterator[str]:
    """How much of the grid is there."""
    frame = m.frame
    status = frame["status"].value_counts()
    lacking = [f"{status[name]:,} {name}" for name in ("failed", "missing") if name in status]
    kinds = [
        count(int(frame[column].dropna().nunique()), noun)
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
        found = listed(f"{objective} with {algo} ({len(own)})" for (objective, algo), own in by)
        yield sentence([f"what is not there belongs to {found}"])


def costs(m: StudyData) -> Iterator[str]:
    """For each model, k and outcome: who is best, and what the other objectives cost."""
    if not m.metrics:
        raise NothingToRead("nothing was measured on held-out data")
    if "ppl" in m.metrics:
        yield "Perplexities are geometric means over cells, which one broken model does not decide alone."
    for (model, k, kind), rows in groups(m.costs, [*STRATUM, "outcome"]):
        own = m.cells[(m.cells["model"] == model) & (m.cells["k"] == k)]
        where = f"from {model}, {int(k)} of {int(own['n_blocks'].iloc[0])} blocks removed"
        yield _cost(where, str(kind), rows, own, m)
    if m.frame["objective"].nunique() == 1:
        yield "One objective was studied, so nothing is known of what another one would cost."


def _cost(where: str, kind: str, rows: pd.DataFrame, own: pd.DataFrame, m: StudyData) -> str:
    metric, sign = m.metrics[kind], -1 if kind == "acc" else 1
    unit = " percent" if kind == "acc" else ""
    known = rows.dropna(subset="mean").sort_values("cost")
    if known.empty:
        return sentence([f"{where}: no finished cell has the {metric.label}"])
    dense, best = float(metric.of(own, "dense").mean()), known.iloc[0]
    parts = [
        f"{where}: {metric.label} is {'highest' if kind == 'acc' else 'lowest'} when pruned for "
        f"{best['objective']} ({number(sign * best['mean'])}{unit}; nothing removed {number(dense)}{unit})"
    ]
    others = [_other(row, kind, sign, float(best["mean"])) for row in each(known.iloc[1:])]
    text = parts[0] + (f". Pruning for {listed(others)}" if others else "")
    error = _error(own, metric.names, kind)
    worst = float(known["cost"].iloc[-1])
    if others and error is not None:
        text += f". The standard error of one measured {WORDS[kind]} is {number(error)}{' points' if unit else ''}"
        text += ", more than any of these differences" if worst < error else ""
    return sentence([text])


def _other(row: object, kind: str, sign: int, best: float) -> str:
    cost, mean = float(row.cost), float(row.mean)  # type: ignore[attr-defined]
    if kind == "acc":
        words = f"{number(cost)} points"
    elif cost < best:
        words = f"{number(cost)} more, {percent(cost / best)} percent"
    else:
        words = f"{number(sign * mean / best)} times as much"
    return f"{row.objective} costs {words} ({number(sign * mean)})"  # type: ignore[attr-defined]


def _error(own: pd.DataFrame, names: tuple[str, ...], kind: str) -> float | None:
    """The standard error of one evaluation of the mean metric, if it was recorded."""
    columns = [error_of(f"pruned/{name}") for name in names]
    if not set(columns) <= set(own):
        return None
    each_cell = np.sqrt((own[columns].astype(float) ** 2).sum(axis=1, skipna=False)) / len(columns)
    return float(each_cell.median()) * (100 if kind == "acc" else 1)


def searches(m: StudyData) -> Iterator[str]:
    """How near each algorithm came to the best known mask, and what it asked for."""
    cells = m.regrets
    problems = cells.groupby([*STRATUM, *SETTING], dropna=False)["exact"].any()
    if cells["algo"].nunique() < 2:
        yield "One search algorithm was studied, so none can be compared."
        return
    yield sentence(
        [
            f"the best mask is known exactly, by enumeration, in {int(problems.sum())} of "
            f"{count(len(problems), 'problem')}",
            "elsewhere it is the best that any search scored, and regret is a lower bound",
        ]
    )
    for algo in ordered(cells["algo"]):
        own = cells[cells["algo"] == algo]
        errors = own["regret_se"].dropna()
        at_best = int((own["regret"] <= 1e-9).sum())
        text = f"the search {algo} ended at the best known mask in {at_best} of {count(len(own), 'cell')}"
        if len(errors):
            text += f", on average {number(errors.mean())} standard errors above it, {number(errors.max())} at most"
        yield sentence([text, f"it asked for {number(own['asked'].astype(float).mean())} scores on average"])


def certainty(m: StudyData) -> Iterator[str]:
    """Ties with the chosen mask, and whether other samples would have chosen it."""
    known = m.cells.dropna(subset="tied")
    if len(known):
        tied = int((known["tied"] > 0).sum())
        yield sentence(
            [
                f"in {tied} of {count(len(known), 'cell')} some other mask that the search scored is not "
                f"significantly worse than the chosen one (0.05, corrected for all that were compared)",
                f"the median number of such masks is {known['tied'].median():.0f}",
            ]
        )
    else:
        yield "No result holds margins, so ties are not known."
    rows = m.stability[0]
    told = rows.dropna(subset="other_mask")
    if told.empty:
        return
    yield sentence(
        [
            f"other samples of the same data would have led the last decision to another mask in "
            f"{percent(told['other_mask'].mean())} percent of resamples (mean over {count(len(told), 'cell')})",
            f"two disjoint halves of the samples choose alike in nine of ten cases in "
            f"{int(told['enough_pair'].notna().sum())} of them",
        ]
    )


def refusals(m: StudyData) -> Iterator[str]:
    """Every statistic that was not given, and its reason."""
    found = list(variance_sentences.refused(m))
    every = count(len(m.cells), "cell")
    for name in (name for metric in m.metrics.values() for name in metric.others):
        having = int(m.cells[f"pruned/{name}"].notna().sum())
        found.append(sentence([f"means without {name}: it was measured of {having:,} of {every} only"]))
    notes = m.stability[0]["note"].fillna("")
    if reason := reasons(notes):
        found.append(sentence([f"stability: {reason}"]))
    for name, column in (("regret in standard errors", "regret_se"),):
        if lacking := int(m.regrets[column].isna().sum()):
            found.append(sentence([f"{name}: {count(lacking, 'cell')} without a standard error of the loss"]))
    yield from found or ["Nothing: every statistic of the figures could be computed."]
