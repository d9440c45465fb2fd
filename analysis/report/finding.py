"""The top of the page: how many blocks change in one sentence, three numbers, and the table behind them.

The sentence claims no more than was measured. If a study lacks the data for one finding, the next one is taken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pandas as pd
from markupsafe import Markup

from pruning.core.mask import unit_noun

from ..figures.style import TIMES, counted, number, ordered
from ..stats.grid import STRATUM, bare, groups, mask_of, noun, removed, removed_of
from .cells import strip
from .page_tables import ReportTable, changes
from .study_data import StudyData, listed, say, tried
from .summary import moved


@dataclass(frozen=True)
class HeadlineNumber:
    """A number, what it is, and how sure it is or what it is taken over."""

    value: str
    label: str
    note: str


@dataclass(frozen=True)
class Finding:
    """The top of the page. `table` says what moves a mask; if nothing can be compared, `strips` show masks."""

    headline: str
    detail: str
    numbers: list[HeadlineNumber]
    table: ReportTable | None = None
    strips: list[tuple[str, Markup, str]] = field(default_factory=list)
    strips_of: str = ""  # the model, size and objective of the strips
    squares: str = ""  # what their squares are


def finding(m: StudyData) -> Finding:
    """The top of the page for a study."""
    sides = (_moves, _objectives, _damage, _finished)
    headline, detail = next(said for say_it in sides if (said := tried(say_it, m)))
    numbers = known_numbers(m)[:3]
    if tried(lambda study: study.changes, m):
        return Finding(headline, detail, numbers, changes(m))
    # One mask of each search of the first model, size and objective.
    where = ["model", "k", "objective"]
    first = m.cells.sort_values(where).iloc[0]
    same = m.cells[(m.cells[where] == first[where]).all(axis=1)]
    words = f"{bare(first['model'])}, {removed(first)}, pruned for {first['objective']}"
    strips = list(_strips(m, same.drop_duplicates("algo").set_index("algo", drop=False)))
    return Finding(headline, detail, numbers, None, strips, words, unit_noun(mask_of(first).unit))


def _moves(m: StudyData) -> list[str] | None:
    """How many blocks another objective, draw and search changes; in percent of a mask if strata differ."""
    strata = list(moved(m))
    if not strata:
        return None
    alone, ends, chance = len(strata) == 1, dict[str, list[float]](), list[float]()
    for _, size, ranges, by_chance in strata:
        scale = 1 if alone else 100 / size
        chance.append(scale * by_chance)
        for factor, low, high in ranges:
            ends.setdefault(factor, []).extend([scale * low, scale * high])
    form, units = number if alone else "{:.0f}".format, noun(m.cells)
    return say(
        "finding",
        kind="moves",
        factors=[(factor, form(min(of)), form(max(of))) for factor, of in ends.items()],
        of=f"of {strata[0][1]:.3g} {units}" if alone else f"percent of the removed {units}",
        where="" if alone else f", in {len(strata)} combinations of model and size",
        chance=" to ".join(dict.fromkeys(map(form, (min(chance), max(chance))))),
        left_out=m.left_out,
    )


def _objectives(m: StudyData) -> list[str] | None:
    """Which objective gives the lowest perplexity."""
    costs = m.costs[m.costs["outcome"] == "ppl"].dropna(subset="mean")
    costs = costs[costs.groupby(STRATUM)["objective"].transform("nunique") > 1]
    if costs.empty:
        return None
    best = {str(part.sort_values("mean")["objective"].iloc[0]) for _, part in groups(costs, STRATUM)}
    return say("finding", kind="objectives", best=sorted(best), strata=costs.groupby(STRATUM).ngroups)


def _damage(m: StudyData) -> list[str] | None:
    """What removing blocks does to perplexity or to accuracy."""
    words = {removed_of(row) for _, row in m.cells.iterrows()}
    which = {re.sub(r" removed(, (.*))?", lambda f: f" ({f[2]})" if f[2] else "", text) for text in words}
    found = perplexity(m) or accuracy(m)
    if found is None:
        return None
    what = which.pop() if len(which) == 1 else noun(m.cells)
    value = found.value.removeprefix(f"{TIMES} ")
    kind = "multiplied" if "ppl" in m.metrics else "changed"
    return say("finding", kind=kind, what=what, value=value, note=found.note)


def _finished(m: StudyData) -> list[str]:
    return say("finding", kind="finished", done=len(m.cells), asked=len(m.frame))


def _strips(m: StudyData, cells: pd.DataFrame) -> Iterator[tuple[str, Markup, str]]:
    for algo in ordered(cells["algo"])[:8]:
        row = cells.loc[[algo]]
        values = [f"{metric.label} {number(float(metric.of(row).iloc[0]))}" for metric in m.metrics.values()]
        yield algo, strip(mask_of(row.iloc[0])), ", ".join(values)


# The numbers beside the finding.

INTERVAL = "95 percent interval"


def known_numbers(m: StudyData) -> list[HeadlineNumber]:
    """The numbers that the study has the data for, the most telling first."""
    measures: tuple[Callable[[StudyData], HeadlineNumber | None], ...]
    measures = (_cost, _one_shot, accuracy, perplexity, _count)
    return [found for measure in measures if (found := tried(measure, m)) is not None]


def _without(m: StudyData) -> str:
    return f"; without {listed(sorted(m.by_construction))}" if m.by_construction else ""


def _cost(m: StudyData) -> HeadlineNumber | None:
    """The perplexity of the worst objective divided by that of the best one."""
    found = m.relative.extremes
    if found.empty:
        return None
    values, first = found["value"], found.iloc[0]
    if len(found) > 1:
        where = f"median over {counted(len(found), 'combination')} of model and size"
        note = f"{where}; range {number(values.min())} to {number(values.max())}"
    else:
        ends = f"{INTERVAL} {number(first['low'])} to {number(first['high'])}"
        known = not math.isnan(first["low"])
        note = f"{first['worst']} instead of {first['best']}; {ends if known else 'no interval'}"
    label = "perplexity if pruned for the worst objective instead of the best"
    return HeadlineNumber(f"{TIMES} {number(float(values.median()))}", label, note)


def _one_shot(m: StudyData) -> HeadlineNumber | None:
    """In how many problems the best known mask is clearly better than one-shot's, on the same samples."""
    gains = m.judged.gains
    if gains.empty:
        return None
    value = f"{int((gains['low'] > 0).sum())} of {len(gains)}"
    label = "problems in which the best known mask is clearly better than one-shot's"
    return HeadlineNumber(value, label, f"paired on the calibration samples{_without(m)}")


def perplexity(m: StudyData) -> HeadlineNumber | None:
    """How many times higher the perplexity of the pruned models is than that of the dense ones."""
    if (metric := m.metrics.get("ppl")) is None:
        return None
    ratios = (metric.of(m.cells) / metric.of(m.cells, "dense")).dropna()
    return _over(ratios, f"{TIMES} {number(float(ratios.median()))}", metric.label)


def accuracy(m: StudyData) -> HeadlineNumber | None:
    """By how many points the accuracy of the pruned models differs from that of the dense ones."""
    if (metric := m.metrics.get("acc")) is None:
        return None
    change = (metric.of(m.cells) - metric.of(m.cells, "dense")).dropna()
    return _over(change, f"{float(change.median()):+.1f} points".replace("-", "−"), metric.label)  # noqa: RUF001


def _over(known: pd.Series[float], value: str, label: str) -> HeadlineNumber | None:
    if known.empty:
        return None
    ends = f"range {number(known.min())} to {number(known.max())}"
    note = f"median over {counted(len(known), 'cell')}; {ends}" if len(known) > 1 else f"one cell, on {label}"
    return HeadlineNumber(value, f"{label}, pruned against dense", note)


def _count(m: StudyData) -> HeadlineNumber:
    note = "nothing is missing" if len(m.cells) == len(m.frame) else "the others are in the list of cells"
    return HeadlineNumber(f"{len(m.cells):,} of {len(m.frame):,}", "cells are finished", note)
