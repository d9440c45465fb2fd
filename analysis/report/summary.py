"""The sentences of the report: here are their numbers, and in `templates/sentences` their words.

A sentence claims no more than its interval or test shows. If there is no interval and no test, the sentence says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..data.archive import NothingToRead
from ..data.load import OTHER, WORDS, standard_error
from ..figures.style import number, ordered
from ..stats import mask_overlap, stability
from ..stats.components import SOURCES, Shares
from ..stats.components import refused as refused_shares
from ..stats.grid import COMPARISONS, SETTING, STRATUM, bare, each, groups, removed_of, size
from ..stats.healed import PRUNED
from ..stats.perplexity_comparisons import SEARCH
from .study_data import StudyData, listed, reasons, say, with_interval
from .verdicts import claims, doubtful, larger, spearman


@dataclass(frozen=True)
class Part:
    """A heading and the sentences below it."""

    heading: str
    sentences: list[str]


def parts(m: StudyData) -> dict[str, Part]:
    """All parts of the summary by name. If the study lacks the numbers for a part, the part says so."""
    found = {}
    for name, (heading, sentences, asked) in PARTS.items():
        if asked(m):
            try:
                found[name] = Part(heading, sentences(m))
            except NothingToRead as nothing:
                reason = f"Not known from this study: {nothing}".rstrip(".")
                found[name] = Part(heading, [f"{reason}."])
    return found


def ran(m: StudyData) -> list[str]:
    """How much of the grid was run, and on which data."""
    frame = m.frame
    status = frame["status"].value_counts().to_dict()
    nouns = {"model": "model", "objective": "objective", "algo": "search algorithm"}
    kinds = {noun: frame[column].dropna().map(bare).nunique() for column, noun in nouns.items()}
    draws = m.cells.groupby(["calibration", "samples", "length"], dropna=False)["draw"].nunique()
    unfinished = groups(frame[frame["status"] != "done"], ["objective", "algo"])
    lacking = [f"{objective} with {algo} ({len(cells)})" for (objective, algo), cells in unfinished]
    return say("run", cells=len(frame), status=status, kinds=kinds, draws=draws.items(), lacking=lacking)


def costs(m: StudyData) -> list[str]:
    """For each model, k and outcome: the best objective, and what pruning for the other objectives costs."""
    if not m.metrics:
        raise NothingToRead("nothing was measured on held-out data")
    rows = []
    for (model, k, kind), found in groups(m.costs, [*STRATUM, "outcome"]):
        cells = m.cells[(m.cells["model"] == model) & (m.cells["k"] == k)]
        metric, sign = m.metrics[kind], -1 if kind == "acc" else 1
        known = [(row, _mean(row, sign)) for row in each(found.dropna(subset="mean").sort_values("cost"))]
        numbers = {"metric": metric, "word": WORDS[kind], "known": known}
        numbers |= {"model": bare(str(model)), "removed": removed_of(cells.iloc[0])}
        numbers |= {"dense": float(metric.of(cells, "dense").mean()), "error": standard_error(metric, cells)}
        rows.append(numbers)
    return say("costs", rows=rows, metrics=m.metrics, single=m.frame["objective"].nunique() == 1)


def _mean(row: Any, sign: int) -> str:
    """A mean with its interval over draws, if there is one. Accuracies have the sign -1."""
    low, high = sorted((sign * float(row.low), sign * float(row.high)))
    mean = sign * float(row.mean)
    return number(mean) if np.isnan(low) else with_interval(mean, low, high)


def searches(m: StudyData) -> list[str]:
    """How near each algorithm came to the loss of the best known mask, and how many scores it asked for.

    Objectives for which one-shot is exact by construction are left out: there, every search finds the best mask.
    """
    if m.cells["algo"].nunique() < 2:
        return say("searches", searches=[], left_out="", exact=0, problems=0)
    cells = m.judged.regrets
    exact = cells.groupby([*STRATUM, *SETTING], dropna=False)["exact"].any()
    rows = []
    for algo in ordered(cells["algo"]):
        own = cells[cells["algo"] == algo]
        at_best = int((own["regret"] <= 1e-9).sum())
        rows.append((algo, at_best, len(own), own["regret_se"].dropna(), own["asked"].astype(float).mean()))
    numbers = {"exact": int(exact.sum()), "problems": len(exact)}
    return say("searches", searches=rows, left_out=m.left_out, **numbers)


def certainty(m: StudyData) -> list[str]:
    """How many masks tie with the chosen one, and whether other samples would give the same mask."""
    families = []
    for (objective, model, k, data, length, *_), rows in groups(m.sizes, stability.FAMILY):
        alike = m.cells[(m.cells["model"] == model) & (m.cells["k"] == k)]
        where = f"{bare(str(model))} with {removed_of(alike.iloc[0])} for {objective} on {data}"
        families.append((where, list(each(rows)), None if pd.isna(length) else length))
    known = m.cells.dropna(subset="tied")["tied"]
    resampled = [
        (samples, part["other_mask"].mean(), len(part), int(part["enough_pair"].notna().sum()))
        for samples, part in groups(m.stability.dropna(subset="other_mask"), "samples")
    ]
    return say("certainty", tied=known, some=int((known > 0).sum()), families=families, resampled=resampled)


def refusals(m: StudyData) -> list[str]:
    """Every statistic that could not be computed, and why."""
    lacking = list[tuple[str, str]]()
    try:
        by_outcome, table = m.shares
    except NothingToRead as nothing:
        lacking.append(("shares of variance", str(nothing).rstrip(".")))
    else:
        lacking += [(f"shares of variance of {label}", found.note) for label, found in by_outcome.items()]
        untested = table[table["p"].isna() & table["source"].isin(TESTED)]
        for source, rows in untested.groupby("source", sort=False):
            lacking.append((f"the test of {source}", reasons(rows["p_note"].replace(np.nan, ""))))
    try:
        unknown = m.agreements[m.agreements["value"].isna()]
    except NothingToRead as nothing:
        lacking.append(("rank agreement", str(nothing).rstrip(".")))
    else:
        for (name, of), rows in unknown.groupby(["statistic", "of"], sort=False):
            what = f"{STATISTIC[str(name)]} of {str(of).replace(', ', ' and ')}"
            lacking.append((what, reasons(rows["note"])))
    others = [name for metric in m.metrics.values() for name in metric.others]
    return say(
        "refusals",
        lacking=lacking,
        cells=len(m.cells),
        in_no_mean=[(name, int(m.cells[f"pruned/{name}"].notna().sum())) for name in others],
        elsewhere=[(name, len(cells)) for name, cells in groups(m.cells.dropna(subset=OTHER), OTHER)],
        unstable=reasons(m.stability["note"].fillna("")),
        unpaired=int(m.regrets["regret_se"].isna().sum()),
    )


def relative(m: StudyData) -> list[str]:
    """For each model, k and state: the ratios of objectives, and the lowest and highest of the searches."""
    where = [*STRATUM, "state"]
    objectives = []
    for key, rows in groups(m.relative.objectives, where, sort=False):
        others = [row for row in each(rows) if row.objective != row.reference]
        objectives.append((_masks_of(*key), others[0].reference, others))
    searches = []
    for key, rows in groups(m.relative.searches, where, sort=False):
        by = groups(rows, "objective", sort=False)
        sorted_rows = [(name, list(each(part.sort_values("value", kind="stable")))) for name, part in by]
        searches.append((_masks_of(*key), sorted_rows))
    every = pd.concat([m.relative.objectives.query("objective != reference"), m.relative.searches])
    fewer = m.states["state"].value_counts().nunique() > 1
    numbers = {"fewer": fewer, "no_interval": bool(every["low"].isna().any()), "search": SEARCH}
    return say("relative", objectives=objectives, searches=searches, **numbers)


def _masks_of(model: str, k: float, state: str) -> str:
    """What is compared: `masks of smollm2 with k = 3`, and what was done to them after pruning."""
    return f"masks of {model} with {size(model, k)}" + (f", {state}" if state != PRUNED.label else "")


def compared(m: StudyData) -> bool:
    """Whether two objectives or two searches have at least two draws with a perplexity."""
    return len(m.relative.objectives) + len(m.relative.searches) > 0


def routing(m: StudyData) -> list[str]:
    """What routing gains in each group of cells, and whether the oracle's gain is more than chance."""
    return say("routing", records=[(routed(record), record) for record in m.routing])


def routed(record: Mapping[str, Any]) -> str:
    """The cells of a record of routing in a few words."""
    size = f"k={record['k']}" if record["ratio"] is None else f"{record['ratio']:g}"
    unit = "" if record["unit"] == "block" else f" {record['unit']}"
    return f"{record['model']} {record['objective']} {record['algo']} {size}{unit}"


def variance(m: StudyData) -> list[str]:
    """For each outcome, the shares of calibration and search, with intervals and tests.

    Shares are over all cells, as in figure 5; what they say is judged without objectives for which one-shot is exact
    by construction. After all outcomes, the shares of model and pruning ratio in each outcome's sum of squares.
    """
    by_outcome, table = m.shares
    outcomes = [_outcome(m, label, found, table) for label, found in by_outcome.items()]
    across = []
    for label, rows in groups(m.across.dropna(subset="share"), "outcome"):
        sources = rows[rows["source"].isin(("model", "ratio"))].sort_values("share", ascending=False)
        across.append((label, list(each(sources))))
    return say("variance", outcomes=outcomes, across=across, left_out=m.left_out)


def _outcome(m: StudyData, label: str, shares: Shares, table: pd.DataFrame) -> dict[str, Any]:
    """The shares of an outcome, its tests, and the shares by which it is judged."""
    tested = table[(table["outcome"] == label) & table["source"].isin(TESTED)].dropna(subset="q")
    noise, note = None, ""
    try:
        judge = m.judged.shares[0][label]
    except (NothingToRead, KeyError):
        judge = refused_shares(0, 0, "no other cell has this outcome")
    else:
        if doubtful(m.judged, label):
            noise, note = m.judged.noise_alone, m.judged.answers.note
    return {
        "label": label,
        "shares": shares,
        "known": not math.isnan(shares.parts["search"].value),
        "judge": judge,
        "verdict": larger(judge),
        "without": listed(sorted(m.by_construction)),
        "noise": noise,
        "note": note,
        "significant": list(each(tested[tested["q"] <= 0.05])),
        "others": list(tested.loc[tested["q"] > 0.05, "source"]),
        "tested": len(tested) > 0,
    }


def agreement(m: StudyData) -> list[str]:
    """Overlap of masks, and agreement of perplexity ranks and accuracy ranks."""
    by = m.overlaps.dropna(subset="corrected").groupby("comparison")["corrected"]
    means = [(name, by.get_group(name)) for name in COMPARISONS if name in by.groups]
    found = spearman(m)
    known, why = found.dropna(subset="value"), reasons(found["note"])
    numbers = {"values": known["value"], "sure": int((known["q"] <= 0.05).sum()), "why": why}
    return say("agreement", means=means, note=mask_overlap.note(m.cells), **numbers)


STATISTIC = {
    "spearman": "Spearman's rho",
    "kendall": "Kendall's tau",
    "weighted": "weighted tau",
    "kendall_w": "Kendall's W",
}
TESTED = [source.name for source in SOURCES]


def _always(_: StudyData) -> bool:
    return True


# For each part: its heading, its sentences, and whether the study asks about it.
PARTS: dict[str, tuple[str, Callable[[StudyData], list[str]], Callable[[StudyData], bool]]] = {
    "run": ("What was run", ran, _always),
    "paper": ("The paper's statements", claims, _always),
    "variance": ("Calibration against search", variance, _always),
    "costs": ("What pruning for one objective costs in other outcomes", costs, _always),
    "searches": ("Comparison of searches", searches, _always),
    "masks": ("How far masks and rankings agree", agreement, _always),
    "certainty": ("How certain a mask is", certainty, _always),
    "refusals": ("What could not be computed, and why", refusals, _always),
    "relative": ("Held-out perplexity of objectives and searches relative to others", relative, compared),
    "routing": ("Sets for tasks", routing, lambda m: bool(m.routing)),
}
