"""The top of the page: how many blocks change, three numbers, and the table of these changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..figures.style import TIMES, counted, number
from ..stats.grid import noun
from .page_tables import ReportTable, changes
from .study_data import StudyData, listed, say, tried
from .summary import moved


@dataclass(frozen=True)
class HeadlineNumber:
    """A number, its label, and a note on its interval or on what it is computed from."""

    value: str
    label: str
    note: str


@dataclass(frozen=True)
class Finding:
    """The top of the page. `table` shows what changes a mask; None if nothing can be compared."""

    headline: str
    detail: str
    numbers: list[HeadlineNumber]
    table: ReportTable | None


def finding(m: StudyData) -> Finding:
    """The top of the page for a study."""
    finished = {"done": len(m.cells), "asked": len(m.frame)}
    headline, detail = tried(_moves, m) or say("finding", kind="finished", **finished)
    numbers = [found for measure in NUMBERS if (found := tried(measure, m))]
    known = tried(lambda study: study.changes, m)
    return Finding(headline, detail, numbers, changes(m) if known else None)


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


# The numbers beside the finding, the most important first.


def _one_shot(m: StudyData) -> HeadlineNumber | None:
    """In how many problems the best known mask is clearly better than one-shot's, on the same samples."""
    gains = m.judged.gains
    if gains.empty:
        return None
    without = f"; without {listed(sorted(m.by_construction))}" if m.by_construction else ""
    value = f"{int((gains['low'] > 0).sum())} of {len(gains)}"
    label = "problems in which the best known mask is clearly better than one-shot's"
    return HeadlineNumber(value, label, f"paired on the calibration samples{without}")


def _pruned(m: StudyData, kind: str) -> HeadlineNumber | None:
    """The perplexity of the pruned models over that of the dense models, or their accuracy minus it, in points."""
    if (metric := m.metrics.get(kind)) is None:
        return None
    pruned, dense = metric.of(m.cells), metric.of(m.cells, "dense")
    known = (pruned / dense if kind == "ppl" else pruned - dense).dropna()
    if known.empty:
        return None
    median = float(known.median())
    value = f"{TIMES} {number(median)}" if kind == "ppl" else f"{median:+.1f} points".replace("-", "−")  # noqa: RUF001
    ends = f"range {number(known.min())} to {number(known.max())}"
    note = f"median over {counted(len(known), 'cell')}; {ends}" if len(known) > 1 else "one cell"
    return HeadlineNumber(value, f"{metric.label}, pruned against dense", note)


NUMBERS: tuple[Callable[[StudyData], HeadlineNumber | None], ...] = (
    _one_shot, lambda m: _pruned(m, "acc"), lambda m: _pruned(m, "ppl"),
)  # fmt: skip
