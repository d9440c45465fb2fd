"""The report's section on held-out perplexity relative to another objective, another search, or the pruned mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from ..figures.style import DASH
from ..stats.frames import each, groups
from ..stats.grid import STRATUM
from ..stats.healings import PRUNED
from ..stats.perplexity_comparisons import SEARCH
from ..stats.removal import size
from .phrasing import listed, sentence, with_interval
from .study_data import StudyData
from .table_cells import LAST, Built, Column, Table, Value, built, of, sorted_by

HEADING = "Held-out perplexity of objectives and searches relative to others"
WHERE = [*STRATUM, "state"]


def compared(m: StudyData) -> bool:
    """Whether two objectives or two searches have at least two draws with a perplexity."""
    return len(m.relative.objectives) + len(m.relative.searches) > 0


def sentences(m: StudyData) -> Iterator[str]:
    """For each model, k and state: the ratios of objectives, and the lowest and highest of the searches."""
    yield (
        "Ratios are of geometric means. Masks found on the same samples are compared in pairs, all others as "
        "independent ones."
    )
    if m.states["state"].value_counts().nunique() > 1:
        yield "Fewer masks were repaired or healed than pruned, so states differ in their draws and searches."
    for where, rows in groups(m.relative.objectives, WHERE, sort=False):
        others = [row for row in each(rows) if row.objective != row.reference]
        words = [f"{_text(row)} for {row.objective}" for row in others]
        yield sentence(
            [f"{_where(*where)}: relative to {others[0].reference}, perplexity is {listed(words)}"]
        )
    for where, rows in groups(m.relative.searches, WHERE, sort=False):
        ranges = [_range(str(objective), part) for objective, part in groups(rows, "objective", sort=False)]
        yield sentence([f"{_where(*where)}: relative to {SEARCH}, perplexity is {listed(ranges)}"])
    every = pd.concat([m.relative.objectives.query("objective != reference"), m.relative.searches])
    if every["low"].isna().any():
        yield (
            "A ratio has no interval if some data were drawn once, or if draws of several sizes contain each other "
            "(--only samples=N takes one size)."
        )


def _where(model: str, k: float, state: str) -> str:
    """What is compared: `masks of smollm2 with k = 3`, and what was done to them after pruning."""
    return f"masks of {model} with {size(model, k)}" + (f", {state}" if state != PRUNED.label else "")


def _range(objective: str, rows: pd.DataFrame) -> str:
    """The lowest and the highest ratio of the searches for one objective."""
    order = list(each(rows.sort_values("value", kind="stable")))
    low, high = (f"{_text(row)} with {row.algo}" for row in (order[0], order[-1]))
    if len(order) == 1:
        return f"{low} for {objective}"
    if len({_text(row) for row in order}) == 1:
        return f"{_text(order[0])} with every search for {objective}"
    return f"from {low} to {high} for {objective}"


def tables(m: StudyData) -> Iterator[Table]:
    """A table of objectives, of searches, and of repaired and healed masks for each model, if they were compared."""
    found = m.relative
    for name, frame, build, caption in (
        (
            "objectives",
            found.objectives,
            _objectives,
            "Held-out perplexity relative to another objective (divergence; if it was not run, the one with the "
            "lowest mean perplexity)",
        ),
        ("searches", found.searches, _searches, f"Held-out perplexity of each search relative to {SEARCH}"),
        (
            "states",
            found.states,
            _states,
            "Held-out perplexity after repair and healing relative to pruned masks",
        ),
    ):
        for number, (model, rows) in enumerate(groups(frame, "model"), start=1):
            over = "with 95 percent intervals over calibration draws"
            yield Table(f"{name}-{number}", f"{caption}, {over}: {model}", *build(rows))


def _objectives(rows: pd.DataFrame) -> Built:
    columns: list[Column] = [
        *_columns(rows, "objective"),
        ("perplexity", True, of("ppl", None)),
        ("relative to the reference", True, _ratio),
        ("draws", True, of("draws", "{:.0f}")),
        ("compared", False, _pairing),
    ]
    return built(rows, columns)


def _searches(rows: pd.DataFrame) -> Built:
    return _crossed(rows, ["k", "state", "algo"], "objective", _columns(rows, "algo"))


def _states(rows: pd.DataFrame) -> Built:
    columns = [_columns(rows, name)[-1] for name in ("k", "objective", "algo")]
    return _crossed(rows, ["k", "objective", "algo"], "state", columns)


def _columns(rows: pd.DataFrame, last: str) -> list[Column]:
    """The columns k, state (if there are several), and `last`."""
    words = {"k": "k", "state": "state", "objective": "pruned for", "algo": "search"}
    names = ["k", *(["state"] if rows["state"].nunique() > 1 else []), last]
    return [(words[name], name == "k", of(name, "{:.0f}")) for name in names]


def _crossed(rows: pd.DataFrame, index: list[str], column: str, first: list[Column]) -> Built:
    """One row for each combination of the values in `index`, and one column of ratios for each value of `column`."""
    names = list(dict.fromkeys(rows[column]))
    known = {
        (*(getattr(row, name) for name in index), getattr(row, column)): _ratio(row) for row in each(rows)
    }
    combinations = rows.drop_duplicates(index)
    headings, table = built(combinations, first)
    for line, row in zip(table, each(combinations), strict=True):
        key = tuple(getattr(row, name) for name in index)
        line += [known.get((*key, name), Value(DASH, LAST)) for name in names]
    return [*headings, *((str(name), True) for name in names)], table


def _ratio(row: Any) -> Value:
    reference = getattr(row, "reference", None) == row.objective
    return Value("1, the reference" if reference else _text(row), sorted_by(row.value))


def _pairing(row: Any) -> Value:
    text = "on the same samples" if row.paired else "as independent samples"
    return Value(text, text)


def _text(row: Any) -> str:
    return with_interval(row.value, row.low, row.high)
