"""The numbers in the report's sentences. The words are in templates, in `templates/sentences`.

A sentence claims no more than its interval or test shows. If there is no interval and no test, the sentence says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.archive import NothingToRead
from ..data.load import OTHER, WORDS
from ..figures.style import counted, named, ordered
from ..stats.estimands import DRAWN, OBJECTIVE
from ..stats.estimands import SEARCH as ANOTHER_SEARCH
from ..stats.grid import SETTING, STRATUM, bare, each, groups, noun, removed
from .study_data import StudyData, listed, mean_text, reasons, say, tried
from .verdicts import claims, larger


@dataclass(frozen=True)
class Part:
    """A part of the report: its heading, its sentences, and the names of its tables."""

    heading: str
    sentences: list[str]
    tables: Sequence[str]


def parts(m: StudyData) -> tuple[dict[str, Part], list[tuple[str, str]]]:
    """The parts of the summary, keyed by name, and a pair (heading, reason) for each part without numbers."""
    found, lacking = {}, []
    for name, (heading, sentences, tables) in PARTS.items():
        if name != "relative" or compared(m):
            try:
                found[name] = Part(heading, sentences(m), tables)
            except NothingToRead as nothing:
                lacking.append((heading.lower(), str(nothing).rstrip(".")))
    return found, lacking


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
        metric = m.metrics[kind]
        known = [(row, mean_text(row)) for row in each(found.dropna(subset="mean").sort_values("cost"))]
        numbers = {"metric": metric, "word": WORDS[kind], "known": known}
        numbers |= {"model": named(bare(str(model))), "removed": removed(cells.iloc[0])}
        numbers |= {"dense": float(metric.of(cells, "dense").mean())}
        rows.append(numbers)
    return say("costs", rows=rows, single=m.frame["objective"].nunique() == 1)


def searches(m: StudyData) -> list[str]:
    """How near each algorithm came to the loss of the best known mask, and how many scores it asked for.

    Objectives for which one-shot is exact by construction are left out: every search finds their best mask.
    """
    if m.cells["algo"].nunique() < 2:
        raise NothingToRead("only one search was studied")
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
    known = m.cells.dropna(subset="tied")["tied"]
    resampled = [
        (samples, part["other_mask"].mean(), len(part))
        for samples, part in groups(m.stability.dropna(subset="other_mask"), "samples")
    ]
    return say("certainty", tied=known, some=int((known > 0).sum()), resampled=resampled)


def refusals(m: StudyData, lacking: list[tuple[str, str]]) -> str:
    """A sentence on what could not be computed, and why. `lacking` has (heading, reason) of parts without numbers."""
    found = list(lacking)
    if (shares := tried(lambda study: study.judged.shares, m)) is not None:
        found += [(f"shares of variance of {label}", one.note) for label, one in shares.items() if one.note]
    for name in (name for metric in m.metrics.values() for name in metric.others):
        having = int(m.cells[f"pruned/{name}"].notna().sum())
        found.append((f"means with {name}", f"only {having:,} of {len(m.cells):,} cells have it"))
    for name, cells in groups(m.cells.dropna(subset=OTHER), OTHER):
        found.append((f"{name} of {counted(len(cells), 'cell')}", "measured on other data than most"))
    if unstable := reasons(m.stability["note"].fillna("")):
        found.append(("stability", unstable))
    regrets = tried(lambda study: study.judged.regrets, m)
    if regrets is not None and (unpaired := int(regrets["regret_se"].isna().sum())):
        found.append(("regret in standard errors", f"{unpaired:,} cells have no losses that can be paired"))
    by_reason: dict[str, list[str]] = {}
    for what, why in found:
        by_reason.setdefault(why, []).append(what)
    return say("refusals", lacking=[(listed(what), why.rstrip(".")) for why, what in by_reason.items()])[0]


def compared(m: StudyData) -> bool:
    """Whether the perplexities of objectives or of searches can be compared, over at least two draws."""
    return len(m.relative.objectives) + len(m.relative.searches) > 0


def variance(m: StudyData) -> list[str]:
    """For each outcome, calibration's and the search's shares of its variance, in cells that verdicts are about."""
    outcomes = [
        {"label": label, "shares": shares, "verdict": larger(shares)}
        for label, shares in m.judged.shares.items()
        if not np.isnan(shares.parts["search"].value)
    ]
    if not outcomes:
        raise NothingToRead("no outcome has shares")
    return say("variance", outcomes=outcomes)


Range = tuple[str, float, float]  # a factor, and the lowest and highest mean number of blocks that it changes


def moved(m: StudyData) -> Iterator[tuple[str, float, list[Range], float]]:
    """Yield per model and size: a label, k, how many blocks each factor changes, and how many differ by chance."""
    for (model, k), cells in groups(m.judged.cells, STRATUM):
        own = [one for one in m.changes if (one.model, one.k) == (model, k)]
        ranges = []
        for factor in (OBJECTIVE, DRAWN, ANOTHER_SEARCH):
            if means := [one.changed.mean for one in own if one.factor == factor]:
                ranges.append((factor, min(means), max(means)))
        if ranges:
            chance = float(np.mean([one.chance for one in own]))
            size = float(np.mean([one.size for one in own]))
            yield f"{named(bare(str(model)))} with {removed(cells.iloc[0])}", size, ranges, chance


def masks(m: StudyData) -> list[str]:
    """How many blocks another objective, draw and search changes, for each model and size."""
    strata = list(moved(m))
    if not strata:
        raise NothingToRead("no two masks differ in one factor only")
    return say("masks", strata=strata, units=noun(m.cells), left_out=m.left_out)


# For each part, in the order of the page: its heading, its sentences and its tables. Each figure names its part.
PARTS: dict[str, tuple[str, Callable[[StudyData], list[str]], Sequence[str]]] = {
    "run": ("What was run", ran, ()),
    "masks": ("What moves a mask", masks, ()),
    "costs": ("What pruning for one objective costs in other outcomes", costs, ("perplexity", "accuracy")),
    "relative": (
        "Held-out perplexity of objectives and searches relative to others",
        lambda _: [],
        ("objectives", "searches", "states"),
    ),
    "searches": ("Comparison of searches", searches, ("search",)),
    "certainty": ("How certain a mask is", certainty, ()),
    "variance": ("Calibration against search", variance, ()),
    "paper": ("The paper's statements", claims, ()),
}
