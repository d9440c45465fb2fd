"""The sortable tables of the report. The page sorts values by the numbers and names that they show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from ..data.archive import NothingToRead
from ..figures import outcome_tables
from ..figures.outcome_tables import MEASURES, aggregate, shown_value
from ..figures.style import DASH, TIMES, number
from ..stats.estimands import DRAWN, OBJECTIVE, Change
from ..stats.estimands import SEARCH as ANOTHER_SEARCH
from ..stats.grid import STRATUM, bare, each, groups, mask_of, noun, size
from ..stats.means import DrawMean
from ..stats.perplexity_comparisons import SEARCH
from .cells import anchor, strip
from .study_data import StudyData, with_interval
from .summary import routed

UNPRUNED = "nothing removed"


@dataclass(frozen=True)
class Value:
    """A cell of a table: its text, and the id it links to."""

    text: str | Markup
    link: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A table. Each heading has a flag: whether its column has numbers. `dense` rows stay on top."""

    name: str
    caption: str
    headings: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[Value]]
    dense: Sequence[Sequence[Value]] = ()


# A heading, whether the column has numbers, and a function that returns the column's value in a row.
Column = tuple[str, bool, Callable[[Any], Value]]
Rows = list[list[Value]]
Built = tuple[list[tuple[str, bool]], Rows]  # headings and rows
WithDense = tuple[list[tuple[str, bool]], Rows, Rows]  # and rows that stay on top


def tables(m: StudyData) -> Iterator[ReportTable]:
    """All tables that the study has the data for, except those of changes and of cells."""
    for name, (caption, build) in TABLES.items():
        if (name == "sizes" and not len(m.sizes)) or (name == "routing" and not m.routing):
            continue
        with suppress(NothingToRead):
            yield ReportTable(name, caption, *build(m))
    found, over = m.relative, "with 95 percent intervals over calibration draws"
    for name, frame, caption, relative in (
        ("objectives", found.objectives, OBJECTIVES, _objective_ratios),
        ("searches", found.searches, f"Held-out perplexity of each search relative to {SEARCH}", _searches),
        ("states", found.states, STATES, _states),
    ):
        for place, (model, rows) in enumerate(groups(frame, "model"), start=1):
            yield ReportTable(f"{name}-{place}", f"{caption}, {over}: {model}", *relative(rows))


# Values and columns.


def word(value: Any) -> Value:
    """A name as a value. If the name is missing, the text is empty."""
    return Value(value if isinstance(value, str) else "")


def numeric(value: Any, form: str | None) -> Value:
    """A number as a value; if it is missing, the text is a dash. Without `form`, it has about three digits."""
    parsed = float(value) if value is not None else math.nan
    if math.isnan(parsed):
        return Value(DASH)
    return Value(number(parsed) if form is None else form.format(parsed))


def _column(heading: str, numbers: bool, name: str, form: str | None) -> Column:
    def value(row: Any) -> Value:
        content = getattr(row, name)
        return word(content) if isinstance(content, str) or content is None else numeric(content, form)

    return heading, numbers, value


WHOLE = ("k", "pairs", "cells", "df", "samples", "length", "draws")


def _columns(names: Sequence[str], digits: int | None = None) -> list[Column]:
    """A column for each name: of numbers with some digits, or of names and whole numbers."""
    form = f"{{:,.{digits or 0}f}}"
    spaced = digits is not None
    return [
        _column(name.replace("_", " ") if spaced else name, spaced or name in WHOLE, name, form)
        for name in names
    ]


def _built(frame: pd.DataFrame, columns: Sequence[Column]) -> Built:
    rows = [[value(row) for _, _, value in columns] for row in each(frame)]
    return [(heading, numbers) for heading, numbers, _ in columns], rows


# Outcomes and costs of the searches.


def _accuracy(m: StudyData) -> WithDense:
    return _outcome(m, "acc", "accuracy")


def _perplexity(m: StudyData) -> WithDense:
    return _outcome(m, "ppl", "perplexity")


def _outcome(m: StudyData, kind: str, name: str) -> WithDense:
    if kind not in m.metrics:
        raise NothingToRead(f"no {name} was measured in this study.")
    metric = m.metrics[kind]
    rows = aggregate(m.frame, metric)

    def value(row: Any) -> Value:
        return Value(shown_value(pd.Series(row._asdict())))

    names = {"objective": "pruned for", "model": "model", "k": "k", "algo": "search"}
    columns = [_column(text, name == "k", name, "{:.0f}") for name, text in names.items()]
    columns.append((metric.label, True, value))
    if paper := bool(rows["paper"].notna().any()):
        columns.append(_column("paper", True, "paper", "{:.2f}"))
    form = "{:.1f}" if kind == "acc" else "{:.2f}"
    dense = [
        [word(UNPRUNED), word(model), word(""), word(""), numeric(mean, form), *[word("")] * paper]
        for model, mean in rows.groupby("model")["dense"].mean().items()
    ]
    return *_built(rows, columns), dense


def _search(m: StudyData) -> Built:
    rows = outcome_tables.search_means(m.frame, m.lines)
    names = {"model": "model", "k": "k", "algo": "search", "cells": "cells"}
    columns = [_column(text, name in WHOLE, name, "{:.0f}") for name, text in names.items()]
    for name, text in MEASURES.items():
        columns.append(_column(f"{text} alone" if name.endswith("_alone") else text, True, name, None))
    if rows["paper_seconds"].notna().any():
        columns.append(_column("paper, seconds", True, "paper_seconds", "{:,.0f}"))
    return _built(rows, columns)


def _crossed(m: StudyData) -> WithDense:
    """The mean, median and range of each outcome for each objective; accuracies are in percent."""
    # Accuracies are negative in the matrix and positive in the table.
    matrix = m.crossed.copy()
    negative = matrix["outcome"].str.startswith("acc/")
    for low, high in (("low", "high"), ("lowest", "highest")):
        matrix.loc[negative, [low, high]] = -matrix.loc[negative, [high, low]].to_numpy()
    matrix.loc[negative, ["mean", "median"]] *= -1
    numbers = ["mean", "low", "high", "median", "lowest", "highest", "cost"]
    columns = [*_columns(["outcome", *STRATUM, "objective", "cells"]), *_columns(numbers, 2)]
    dense = []
    for (outcome, model), _ in groups(matrix, ["outcome", "model"]):
        values = m.cells.loc[m.cells["model"] == model, f"dense/{outcome}"].astype(float)
        mean = float(values.mean()) * (100 if outcome.startswith("acc/") else 1)
        own = [word(outcome), word(model), word(""), word(UNPRUNED), word(""), numeric(mean, "{:,.2f}")]
        dense.append([*own, *[word("")] * (len(numbers) - 1)])
    return *_built(matrix, columns), dense


# Shares of variance, stability.


def _shares(m: StudyData) -> Built:
    columns = [*_columns(["outcome", "source"]), *_columns(["share", "low", "high"], 2)]
    return _built(m.judged.shares[1], [*columns, _column("reason if missing", False, "note", None)])


def _stability(m: StudyData) -> Built:
    """Means over the cells whose last decision can be resampled."""
    where = ["objective", *STRATUM, "samples", "algo"]
    measured = ["other_mask", "overlap"]
    by = m.stability.astype(dict.fromkeys(measured, float)).groupby(where, dropna=False)
    means = by[measured].mean().assign(cells=by["other_mask"].count())
    columns = [*_columns([*where, "cells"]), *_columns(["other_mask", "overlap"], 2)]
    return _built(pd.DataFrame(means).reset_index(), columns)


def _sizes(m: StudyData) -> Built:
    """Overlap of two draws and mean outcomes at each number of samples."""
    columns = _columns(["objective", *STRATUM, "calibration", "length", "samples", "cells", "draws"])
    columns += _columns(["corrected"], 2)
    for kind, metric in m.metrics.items():
        columns.append(_column(metric.label, True, kind, "{:,.2f}" if kind == "ppl" else "{:,.1f}"))
    return _built(m.sizes, columns)


def _routing(m: StudyData) -> Built:
    """A row for each group of cells and policy: accuracy, gain over the static set, margin."""
    headings = [("cells", False), ("policy", False), ("accuracy, %", True), ("95 percent interval", False)]
    headings += [("gain over static, points", True), ("95 percent interval", False), ("margin", True)]
    rows = []
    for record in m.routing:
        for name in ("dense", "static", "own", "random", "router", "likeliest", "oracle"):
            policy = record["policies"][name]
            row = [word(routed(record)), word(name)]
            for found, form in ((policy["accuracy"], "{:.1f}"), (policy["gain"], "{:+.1f}")):
                ends = f"{100 * found['low']:.1f} to {100 * found['high']:.1f}"
                row += [numeric(100 * found["value"], form), word(ends)]
            rows.append([*row, numeric(policy["margin"], "{:.3f}")])
    return headings, rows


# Perplexity relative to another objective, search or state; a table for each model.

OBJECTIVES = (
    "Held-out perplexity relative to another objective (divergence; if it was not run, the one with the lowest mean "
    "perplexity)"
)
STATES = "Held-out perplexity after repair and healing relative to pruned masks"


def _objective_ratios(rows: pd.DataFrame) -> Built:
    def pairing(row: Any) -> Value:
        return word("on the same samples" if row.paired else "as independent samples")

    columns = [*_named(rows, "k", "state", "objective"), _column("perplexity", True, "ppl", None)]
    columns += [("relative to the reference", True, _ratio), _column("draws", True, "draws", "{:.0f}")]
    return _built(rows, [*columns, ("compared", False, pairing)])


def _searches(rows: pd.DataFrame) -> Built:
    return _by(rows, ["k", "state", "algo"], "objective", _named(rows, "k", "state", "algo"))


def _states(rows: pd.DataFrame) -> Built:
    return _by(rows, ["k", "objective", "algo"], "state", _named(rows, "k", "objective", "algo"))


def _named(rows: pd.DataFrame, *names: str) -> list[Column]:
    """Columns of names. That of the state is left out if there is one state only."""
    words = {"k": "k", "state": "state", "objective": "pruned for", "algo": "search"}
    several = rows["state"].nunique() > 1
    return [_column(words[name], name == "k", name, "{:.0f}") for name in names if name != "state" or several]


def _by(rows: pd.DataFrame, index: list[str], column: str, first: list[Column]) -> Built:
    """One row for each combination of the values in `index`, and one column of ratios for each value of `column`."""
    names = list(dict.fromkeys(rows[column]))
    known = {(*(getattr(row, n) for n in index), getattr(row, column)): _ratio(row) for row in each(rows)}
    combinations = rows.drop_duplicates(index)
    headings, table = _built(combinations, first)
    for line, row in zip(table, each(combinations), strict=True):
        key = tuple(getattr(row, name) for name in index)
        line += [known.get((*key, name), Value(DASH)) for name in names]
    return [*headings, *((str(name), True) for name in names)], table


def _ratio(row: Any) -> Value:
    reference = getattr(row, "reference", None) == row.objective
    return Value("1, the reference" if reference else with_interval(row.value, row.low, row.high))


# What moves a mask, and what that costs held out: a row for each objective, and for objectives that are compared.

FACTORS = {ANOTHER_SEARCH: "another search", DRAWN: "another draw", OBJECTIVE: "another objective"}


def changes(m: StudyData) -> ReportTable:
    """Blocks that change, and held-out perplexity over that of the unpruned model."""
    costs = {(one.model, one.k, one.objective): one for one in m.held_out}
    blocks: dict[Any, dict[str, str]] = {}
    for one in m.changes:
        blocks.setdefault((one.model, one.k, _named_sides(one)), {})[one.factor] = _mean(one.changed)
    headings = [("model", False), ("pruned for", False), *((text, False) for text in FACTORS.values())]
    headings += [(f"perplexity, {TIMES} unpruned", False), ("median and range", False)] if costs else []
    rows = []
    for (model, k, name), found in blocks.items():
        row = [
            word(f"{bare(model)}, {size(model, k)}"),
            word(name),
            *(word(found.get(one, "")) for one in FACTORS),
        ]
        if costs:
            cost = costs.get((model, k, name))
            spread = (
                f"{number(cost.median)} ({number(cost.lowest)} to {number(cost.highest)})" if cost else ""
            )
            row += [word(_mean(cost.ratio) if cost else ""), word(spread)]
        rows.append(row)
    caption = (
        f"{noun(m.cells).capitalize()} that change, all else equal: mean and 95 percent interval over draws"
    )
    return ReportTable("changes", caption, headings, rows)


def _worst(m: StudyData) -> Built:
    """The highest held-out perplexity divided by the lowest one, over the levels of each factor."""
    ratios: dict[Any, dict[str, str]] = {}
    for one in m.changes:
        if not math.isnan(one.worst_to_best.mean):
            ratios.setdefault((one.model, one.k, _named_sides(one)), {})[one.factor] = _mean(
                one.worst_to_best
            )
    if not ratios:
        raise NothingToRead("no perplexity was measured in this study.")
    headings = [("model", False), ("pruned for", False), *((text, False) for text in FACTORS.values())]
    rows = [
        [word(f"{bare(model)}, {size(model, k)}"), word(name), *(word(found.get(one, "")) for one in FACTORS)]
        for (model, k, name), found in ratios.items()
    ]
    return headings, rows


def _named_sides(one: Change) -> str:
    """The objective, or both that are compared."""
    return " : ".join(" or ".join(side) for side in (one.objectives, one.others) if side)


def _mean(mean: DrawMean) -> str:
    """A mean with its interval, if it has one."""
    return number(mean.mean) if math.isnan(mean.low) else with_interval(mean.mean, mean.low, mean.high)


# The table of all cells, finished or not. Each row has a link to the cell's entry.


def cells(m: StudyData) -> ReportTable:
    """A row for each cell of the study."""
    metrics = {kind: metric.of(m.frame) for kind, metric in m.metrics.items()}
    rows = []
    for i, (_, row) in enumerate(m.frame.iterrows()):
        done, name = row["status"] == "done", str(row["cell"])
        mask = Value(strip(mask_of(row)) if done else "")
        # With a budget, only the mask shows how many units a cell removes.
        budget = isinstance(row["cost"], str)
        size = (len(row["dropped"]) if done else None) if budget else row["k"]
        rows.append(
            [
                Value(row["status"], anchor(name) if name in m.shown else ""),
                *(word(row[column]) for column in ("model", "objective", "algo")),
                numeric(size, "{:.0f}"),
                word(row["calibration"]),
                numeric(row["seed"], "{:.0f}"),
                mask,
                numeric(row["loss"] - row["dense_loss"], "{:+.3f}"),
                *(numeric(values.iloc[i], None) for values in metrics.values()),
                numeric(row["asked"], "{:,.0f}"),
                numeric(row["seconds"], "{:,.0f}"),
            ]
        )
    named = {"ppl": "perplexity", "acc": "accuracy, %"}
    headings = [("cell", False), ("model", False), ("objective", False), ("search", False), ("k", True)]
    headings += [("data", False), ("seed", True), (f"{noun(m.cells)} removed", False), ("loss added", True)]
    headings += [*((named[kind], True) for kind in metrics), ("asked", True), ("seconds", True)]
    dense = []
    for model, own in groups(m.cells, "model"):
        values = [numeric(float(metric.of(own, "dense").mean()), None) for metric in m.metrics.values()]
        dense.append([word(UNPRUNED), word(model), *[word("")] * 7, *values, word(""), word("")])
    caption = "Every cell of the study; the first column links to its entry"
    return ReportTable("cells", caption, headings, rows, dense)


TABLES: dict[str, tuple[str, Callable[[StudyData], Built | WithDense]]] = {
    "worst": (
        "Highest held-out perplexity divided by the lowest, all else equal: geometric mean and 95 percent interval",
        _worst,
    ),
    "accuracy": (
        "Accuracy by objective and search, in percent: mean and standard deviation over cells",
        _accuracy,
    ),
    "perplexity": (
        "Perplexity by objective and search: geometric mean over cells, and its spread as a factor",
        _perplexity,
    ),
    "crossed": (
        "Outcomes by objective: mean (geometric for perplexities), median and range over cells, and cost",
        _crossed,
    ),
    "search": (
        "Cost of each search: means over objectives, calibration data and draws; alone: as if no other cell had "
        "computed a score",
        _search,
    ),
    "shares": (
        "Shares of variance within model and k, with 95 percent intervals; shares below 0 are shown as 0",
        _shares,
    ),
    "stability": (
        "How often other samples would choose another mask: means over cells",
        _stability,
    ),
    "sizes": (
        "Fewer and more calibration samples, for the same searches and draws: corrected overlap of the masks of two "
        "draws, and mean outcomes (geometric for perplexity)",
        _sizes,
    ),
    "routing": (
        "Accuracy on held-out items, as a mean over tasks, if a policy chooses the set for each prompt",
        _routing,
    ),
}
