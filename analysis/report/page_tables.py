"""The sortable tables of the report. The page sorts rows by the numbers and names that they show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from pandas.api.types import is_numeric_dtype

from ..data.archive import NothingToRead
from ..figures import outcome_tables
from ..figures.fig5_variance_shares import shares_of
from ..figures.outcome_tables import MEASURES, aggregate, shown_value
from ..figures.style import DASH, TIMES, number
from ..stats.estimands import DRAWN, OBJECTIVE, SEARCH, Change
from ..stats.grid import STRATUM, bare, each, groups, mask_of, noun, size
from .cells import anchor, strip
from .study_data import StudyData, mean_text, templates, with_interval

UNPRUNED = "nothing removed"


@dataclass(frozen=True)
class Value:
    """An entry of a table: its text, and the id of the element that it links to."""

    text: str | Markup
    link: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A table. Each heading has a flag: whether its column has numbers. Sorting keeps `dense` rows on top."""

    name: str
    caption: str
    headings: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[Value]]
    dense: Sequence[Sequence[Value]] = ()


@dataclass(frozen=True)
class Content:
    """What a table shows: a frame whose columns are the headings, and a row by heading for each unpruned model.

    Columns named in `numbers` have texts, such as means with their spread, and are sorted by their first number.
    """

    frame: pd.DataFrame
    dense: Sequence[Mapping[str, str]] = ()
    numbers: Sequence[str] = ()

    def table(self, name: str, caption: str) -> ReportTable:
        """The table with a name and a caption."""
        columns = [shown(self.frame[column]) for column in self.frame]
        headings = [
            (str(column), is_numeric_dtype(self.frame[column]) or column in self.numbers)
            for column in self.frame
        ]
        rows = [list(map(Value, row)) for row in zip(*columns, strict=True)]
        dense = [[Value(row.get(heading, "")) for heading, _ in headings] for row in self.dense]
        return ReportTable(name, caption, headings, rows, dense)


def shown(values: pd.Series[Any]) -> list[str]:
    """The texts of a column: names unchanged, integers without decimals, other numbers with about three digits."""
    if not is_numeric_dtype(values):
        return [value if isinstance(value, str) else "" for value in values]
    whole = bool((values.dropna() % 1 == 0).all())
    return [DASH if pd.isna(value) else f"{value:,.0f}" if whole else number(value) for value in values]


def tables(m: StudyData) -> Iterator[ReportTable]:
    """All tables for which the study has the data, except those of changes and of cells."""
    for name, build in TABLES.items():
        with suppress(NothingToRead):
            yield build(m).table(name, captions()[name])
    relative = {"objectives": _objective_ratios, "searches": _searches, "states": _states}
    for name, of_model in relative.items():
        for place, (model, rows) in enumerate(groups(getattr(m.relative, name), "model"), start=1):
            yield of_model(rows).table(f"{name}-{place}", f"{captions()[name]}: {model}")


def captions() -> Mapping[str, str]:
    """The captions of the tables by their names."""
    found: Mapping[str, str] = getattr(templates().get_template("texts.j2").module, "captions")  # noqa: B009
    return found


# Outcomes and costs of the searches, shares of variance, and stability.


def _outcome(m: StudyData, kind: str) -> Content:
    if kind not in m.metrics:
        raise NothingToRead("it was not measured in this study.")
    metric = m.metrics[kind]
    rows = aggregate(m.frame, metric)
    named = rows.rename(columns={"objective": "pruned for", "algo": "search"})
    named[metric.label] = [shown_value(row) for _, row in rows.iterrows()]
    named["paper"] = [DASH if np.isnan(value) else f"{value:.2f}" for value in rows["paper"]]
    paper = ["paper"] if rows["paper"].notna().any() else []
    dense = [
        {"pruned for": UNPRUNED, "model": str(model), metric.label: number(mean)}
        for model, mean in rows.groupby("model")["dense"].mean().items()
    ]
    return Content(
        named[["pruned for", "model", "k", "search", metric.label, *paper]], dense, [metric.label, "paper"]
    )


def _search(m: StudyData) -> Content:
    rows = outcome_tables.search_means(m.frame, m.asked.lines)
    named = {"model": "model", "k": "k", "algo": "search", "cells": "cells"}
    named |= {name: f"{text} alone" if name.endswith("_alone") else text for name, text in MEASURES.items()}
    named |= {"paper_seconds": "paper, seconds"} if rows["paper_seconds"].notna().any() else {}
    return Content(rows[[*named]].rename(columns=named))


def _crossed(m: StudyData) -> Content:
    """The mean, median and range of each outcome for each objective; accuracies are in percent."""
    dense = []
    for (outcome, model), _ in groups(m.crossed, ["outcome", "model"]):
        values = m.cells.loc[m.cells["model"] == model, f"dense/{outcome}"].astype(float)
        mean = float(values.mean()) * (100 if outcome.startswith("acc/") else 1)
        dense.append({"outcome": outcome, "model": model, "objective": UNPRUNED, "mean": number(mean)})
    numbers = ["mean", "low", "high", "median", "lowest", "highest", "cost"]
    return Content(m.crossed[["outcome", *STRATUM, "objective", "cells", *numbers]], dense)


def _shares(m: StudyData) -> Content:
    rows = shares_of(m.judged.asked, None, None)[1].rename(columns={"note": "reason if missing"})
    return Content(rows[["outcome", "source", "share", "low", "high", "reason if missing"]])


def _stability(m: StudyData) -> Content:
    """Means over the cells whose last decision can be resampled."""
    where, measured = ["objective", *STRATUM, "samples", "algo"], ["other_mask", "overlap"]
    by = m.stability.astype(dict.fromkeys(measured, float)).groupby(where, dropna=False)
    means = pd.DataFrame(by[measured].mean()).assign(cells=by["other_mask"].count()).reset_index()
    return Content(means.rename(columns={"other_mask": "other mask"}))


# Perplexity relative to another objective, search or state; a table for each model.


def _objective_ratios(rows: pd.DataFrame) -> Content:
    ratios = [
        "1, the reference" if row.objective == row.reference else with_interval(row.value, row.low, row.high)
        for row in each(rows)
    ]
    frame = _named(rows, "objective").assign(perplexity=rows["ppl"])
    frame["relative to the reference"] = ratios
    compared = np.where(rows["paired"], "on the same samples", "as independent samples")
    return Content(
        frame.assign(draws=rows["draws"], compared=compared), numbers=["relative to the reference"]
    )


def _searches(rows: pd.DataFrame) -> Content:
    return _by(rows, _named(rows, "algo"), "objective")


def _states(rows: pd.DataFrame) -> Content:
    return _by(rows, _named(rows.assign(state=""), "objective", "algo"), "state")


def _named(rows: pd.DataFrame, *names: str) -> pd.DataFrame:
    """The size, the state if there are several, and further names of each row."""
    kept = ["k", *(["state"] if rows["state"].nunique() > 1 else []), *names]
    return rows[kept].rename(columns={"objective": "pruned for", "algo": "search"})


def _by(rows: pd.DataFrame, named: pd.DataFrame, column: str) -> Content:
    """One row for each combination of values in `named`, and one column of ratios for each value of `column`."""
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    columns = list(dict.fromkeys(map(str, rows[column])))
    for key, row in zip(named.itertuples(index=False, name=None), each(rows), strict=True):
        names = dict(zip(map(str, named), key, strict=True))
        line = lines.setdefault(key, names | dict.fromkeys(columns, DASH))
        line[getattr(row, column)] = with_interval(row.value, row.low, row.high)
    return Content(pd.DataFrame([*lines.values()]), numbers=columns)


# What changes a mask, and what that costs in held-out perplexity: a row for each objective or pair of objectives.

FACTORS = {SEARCH: "another search", DRAWN: "another draw", OBJECTIVE: "another objective"}


def _by_factor(m: StudyData, text: Callable[[Change], str]) -> dict[tuple[str, int, str], dict[str, str]]:
    """A row for each model, size and objective, or pair of objectives, with a text for each factor."""
    rows: dict[tuple[str, int, str], dict[str, str]] = {}
    for one in m.changes:
        sides = " : ".join(" or ".join(side) for side in (one.objectives, one.others) if side)
        names = {"model": f"{bare(one.model)}, {size(one.model, one.k)}", "pruned for": sides}
        row = rows.setdefault((one.model, one.k, sides), names | dict.fromkeys(FACTORS.values(), ""))
        row[FACTORS[one.factor]] = text(one)
    return rows


def changes(m: StudyData) -> ReportTable:
    """The table of blocks that change, and of held-out perplexity divided by that of the unpruned model."""
    rows = _by_factor(m, lambda one: mean_text(one.changed))
    for cost in each(m.held_out):
        spread = f"{number(cost.median)} ({number(cost.lowest)} to {number(cost.highest)})"
        if (row := rows.get((cost.model, cost.k, cost.objective))) is not None:
            row |= {f"perplexity, {TIMES} unpruned": mean_text(cost), "median and range": spread}
    units = noun(m.cells).capitalize()
    return Content(pd.DataFrame([*rows.values()])).table("changes", f"{units} {captions()['changes']}")


def _worst(m: StudyData) -> Content:
    """The highest held-out perplexity divided by the lowest, over the levels of each factor."""
    if m.held_out.empty or not m.changes:
        raise NothingToRead("no perplexity was measured in this study.")
    return Content(pd.DataFrame([*_by_factor(m, lambda one: mean_text(one.worst_to_best)).values()]))


# The table of all cells, finished or not. Each row has a link to the cell's entry.


def cells(m: StudyData) -> ReportTable:
    """A row for each cell of the study."""
    frame = m.frame
    done, units = frame["status"] == "done", f"{noun(m.cells)} removed"
    # With a budget, only the mask shows how many units a cell removes.
    budget = [isinstance(cost, str) for cost in frame["cost"]]
    removed = [len(dropped) if isinstance(dropped, tuple) else np.nan for dropped in frame["dropped"]]
    added = (frame["loss"] - frame["dense_loss"]).astype(float)
    metrics = {{"ppl": "perplexity", "acc": "accuracy, %"}[kind]: one for kind, one in m.metrics.items()}
    columns: dict[str, Any] = {
        **{name: frame[name] for name in ("cell", "model", "objective")},
        "search": frame["algo"],
        "k": np.where(budget, removed, frame["k"]),
        "data": frame["calibration"],
        "seed": frame["seed"].astype(float),
        units: "",
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
    content = Content(pd.DataFrame(columns), dense, ["loss added"])
    table = content.table("cells", captions()["cells"])
    place = [heading for heading, _ in table.headings].index(units)
    for (_, row), line, finished in zip(frame.iterrows(), table.rows, done, strict=True):
        values: Any = line
        values[0] = Value(row["status"], anchor(str(row["cell"])))
        values[place] = Value(strip(mask_of(row)) if finished else "")
    return table


TABLES: dict[str, Callable[[StudyData], Content]] = {
    "worst": _worst,
    "accuracy": lambda m: _outcome(m, "acc"),
    "perplexity": lambda m: _outcome(m, "ppl"),
    "crossed": _crossed,
    "search": _search,
    "shares": _shares,
    "stability": _stability,
}
