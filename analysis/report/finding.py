"""The top of the page: how many blocks change, and the table of these changes."""

from __future__ import annotations

from dataclasses import dataclass

from ..figures.style import number
from ..stats.grid import noun
from .page_tables import ReportTable, changes
from .study_data import StudyData, say, tried
from .summary import moved


@dataclass(frozen=True)
class Finding:
    """The top of the page. `table` shows what changes a mask; None if nothing can be compared."""

    headline: str
    detail: str
    table: ReportTable | None


def finding(m: StudyData) -> Finding:
    """The top of the page for a study."""
    finished = {"done": len(m.cells), "asked": len(m.frame)}
    headline, detail = tried(_moves, m) or say("finding", kind="finished", **finished)
    known = tried(lambda study: study.changes, m)
    return Finding(headline, detail, changes(m) if known else None)


def _moves(m: StudyData) -> list[str] | None:
    """How many blocks another objective, draw and search changes; with several strata, in percent of a mask."""
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
