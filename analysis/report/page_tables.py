"""The sortable tables of the report. The page sorts rows by the numbers or names in a column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from pandas.api.types import is_numeric_dtype

from ..figures import outcome_tables
from ..figures.outcome_tables import UNPRUNED
from ..figures.style import DASH, TIMES, number
from ..stats.estimands import DRAWN, OBJECTIVE, SEARCH
from ..stats.grid import bare, each, groups, mask_of, noun, size
from .cells import anchor, strip
from .study_data import StudyData, mean_text, templates, with_interval


@dataclass(frozen=True)
class ReportTable:
    """A table of strings. Each heading has a flag: whether its column has numbers. The rows `dense` stay on top."""

    name: str
    caption: str
    headings: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[str]]
    dense: Sequence[Sequence[str]] = ()


def _table(
    name: str,
    frame: pd.DataFrame,
    dense: Sequence[Mapping[str, str]] = (),
    numbers: Sequence[str] = (),
    model: str = "",
) -> ReportTable:
    """A table with the columns of `frame`. `dense` has a row for each unpruned model, keyed by heading.

    Columns in `numbers` have strings, such as means with their spread, and are sorted by each string's first number.
    """
    captions: Mapping[str, str] = getattr(templates().get_template("texts.j2").module, "captions")  # noqa: B009
    caption = captions[name.partition("-")[0]] + (f": {model}" if model else "")
    headings = [(str(heading), is_numeric_dtype(frame[heading]) or heading in numbers) for heading in frame]
    rows = list(zip(*(_texts(frame[heading]) for heading in frame), strict=True))
    above = [[row.get(heading, "") for heading, _ in headings] for row in dense]
    return ReportTable(name, caption, headings, rows, above)


def _texts(values: pd.Series[Any]) -> list[str]:
    """A column as strings: names unchanged, integers without decimals, other numbers rounded."""
    if not is_numeric_dtype(values):
        return [value if isinstance(value, str) else "" for value in values]
    whole = bool((values.dropna() % 1 == 0).all())
    return [DASH if pd.isna(value) else f"{value:,.0f}" if whole else number(value) for value in values]


def tables(m: StudyData) -> Iterator[ReportTable]:
    """All tables for which the study has the data, except those of changes and of cells."""
    for kind, name in (("acc", "accuracy"), ("ppl", "perplexity")):
        if metric := m.metrics.get(kind):
            texts = outcome_tables.outcome_texts(outcome_tables.aggregate(m.frame, metric), metric)
            flat = _flat(texts, "pruned for")
            dense = {str(heading): str(flat[heading].iloc[0]) for heading in flat}
            yield _table(name, flat.iloc[1:], [dense], list(map(str, texts)))
    costs = outcome_tables.search_texts(outcome_tables.search_means(m.frame, m.asked.journals.lines))
    yield _table("search", _flat(costs, "model"), numbers=list(map(str, costs)))
    relative = {"objectives": _objective_ratios, "searches": _searches, "states": _states}
    for name, of_model in relative.items():
        for place, (model, rows) in enumerate(groups(getattr(m.relative, name), "model"), start=1):
            yield of_model(f"{name}-{place}", str(model), rows)


def _flat(texts: pd.DataFrame, group: str) -> pd.DataFrame:
    """A table of `outcome_tables` with its index as columns."""
    return texts.rename_axis([group, "search"]).reset_index()


# Perplexity relative to another objective, search or state; a table for each model.


def _objective_ratios(name: str, model: str, rows: pd.DataFrame) -> ReportTable:
    frame, heading = _named(rows, "objective").assign(perplexity=rows["ppl"]), "relative to the reference"
    frame[heading] = [
        "1, the reference" if row.objective == row.reference else with_interval(row.value, row.low, row.high)
        for row in each(rows)
    ]
    compared = np.where(rows["paired"], "on the same samples", "as independent samples")
    return _table(name, frame.assign(draws=rows["draws"], compared=compared), numbers=[heading], model=model)


def _searches(name: str, model: str, rows: pd.DataFrame) -> ReportTable:
    return _by(name, model, rows, _named(rows, "algo"), "objective")


def _states(name: str, model: str, rows: pd.DataFrame) -> ReportTable:
    return _by(name, model, rows, _named(rows.assign(state=""), "objective", "algo"), "state")


def _named(rows: pd.DataFrame, *names: str) -> pd.DataFrame:
    """The columns that identify each row: the size, the state (if there are several), and `names`."""
    kept = ["k", *(["state"] if rows["state"].nunique() > 1 else []), *names]
    return rows[kept].rename(columns={"objective": "pruned for", "algo": "search"})


def _by(name: str, model: str, rows: pd.DataFrame, named: pd.DataFrame, column: str) -> ReportTable:
    """A table of ratios: a row for each combination of values in `named`, a column for each value of `column`."""
    ratios = [with_interval(row.value, row.low, row.high) for row in each(rows)]
    columns = list(dict.fromkeys(map(str, rows[column])))
    by = named.assign(column=rows[column].astype(str), ratio=ratios)
    wide = by.pivot_table("ratio", list(named), "column", aggfunc="first", sort=False)[columns]
    return _table(name, wide.fillna(DASH).reset_index(), numbers=columns, model=model)


# What changes a mask, and what that costs in held-out perplexity: a row for each objective or pair of objectives.

FACTORS = {SEARCH: "another search", DRAWN: "another draw", OBJECTIVE: "another objective"}


def changes(m: StudyData) -> ReportTable:
    """The table of changed blocks, and of held-out perplexity divided by that of the unpruned model."""
    rows: dict[tuple[str, int, str], dict[str, str]] = {}
    for one in m.changes:
        sides = " : ".join(" or ".join(side) for side in (one.objectives, one.others) if side)
        names = {"model": f"{bare(one.model)}, {size(one.model, one.k)}", "pruned for": sides}
        row = rows.setdefault((one.model, one.k, sides), names | dict.fromkeys(FACTORS.values(), ""))
        row[FACTORS[one.factor]] = mean_text(one.changed)
    for cost in each(m.held_out):
        spread = f"{number(cost.median)} ({number(cost.lowest)} to {number(cost.highest)})"
        if (found := rows.get((cost.model, cost.k, cost.objective))) is not None:
            found |= {f"perplexity, {TIMES} unpruned": mean_text(cost), "median and range": spread}
    table = _table("changes", pd.DataFrame([*rows.values()]))
    return replace(table, caption=f"{noun(m.cells).capitalize()} {table.caption}")


# The table of all cells, finished or not. Each row has a link to the cell's entry.


def cells(m: StudyData) -> ReportTable:
    """A row for each cell of the study."""
    frame = m.frame
    # If there is a budget, only the mask shows how many units a cell removes.
    budget = [isinstance(cost, str) for cost in frame["cost"]]
    removed = [len(dropped) if isinstance(dropped, tuple) else np.nan for dropped in frame["dropped"]]
    added = (frame["loss"] - frame["dense_loss"]).astype(float)
    metrics = {{"ppl": "perplexity", "acc": "accuracy, %"}[kind]: one for kind, one in m.metrics.items()}
    link = Markup('<a href="#{}" class="{}">{}</a>')
    links = [link.format(anchor(row["cell"]), *[row["status"]] * 2) for _, row in frame.iterrows()]
    strips = [strip(mask_of(row)) if row["status"] == "done" else "" for _, row in frame.iterrows()]
    columns: dict[str, Any] = {
        "cell": pd.Series(links, frame.index, dtype=object),  # other dtypes lose the markup
        **{name: frame[name] for name in ("model", "objective")},
        "search": frame["algo"],
        "k": np.where(budget, removed, frame["k"]),
        "data": frame["calibration"],
        "seed": frame["seed"].astype(float),
        f"{noun(m.cells)} removed": pd.Series(strips, frame.index, dtype=object),
        "loss added": ["" if np.isnan(value) else f"{value:+.3f}" for value in added],
        **{heading: one.of(frame) for heading, one in metrics.items()},
        "asked": frame["asked"].astype(float),
        "seconds": frame["seconds"].astype(float).round(),
    }
    dense = [
        {"cell": UNPRUNED, "model": str(model)}
        | {heading: number(float(one.of(own, "dense").mean())) for heading, one in metrics.items()}
        for model, own in groups(m.cells, "model")
    ]
    return _table("cells", pd.DataFrame(columns), dense, ["loss added"])
