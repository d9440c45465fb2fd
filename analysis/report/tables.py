"""The sortable tables of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
from markupsafe import Markup

from ..data.errors import NothingToRead
from ..figures import table3_search
from ..figures.outcome_tables import aggregate, shown_value
from ..stats.removal import mask_of, noun
from . import perplexity_comparisons, routing, statistics_tables
from .cells import anchor
from .study_data import StudyData
from .svg import strip
from .table_cells import LAST, Built, Column, Table, Value, built, numeric, of, sorted_by, word


def tables(m: StudyData) -> Iterator[Table]:
    """All tables except the table of cells. If the study lacks the data for a table, the table says so."""
    for name, (caption, build) in (
        TABLES | (SIZES if len(m.sizes) else {}) | (ROUTING if m.routing else {})
    ).items():
        try:
            headings, rows = build(m)
            yield Table(name, caption, headings, rows)
        except NothingToRead as nothing:
            yield Table(name, caption, reason=str(nothing))
    yield from perplexity_comparisons.tables(m)


def cells(m: StudyData) -> Table:
    """A table of all cells of the study, finished or not. Each row has a link to the cell's entry."""
    shown = {kind: metric.of(m.frame) for kind, metric in m.metrics.items()}
    named = {"ppl": "perplexity", "acc": "accuracy, %"}
    rows = []
    for i, (_, row) in enumerate(m.frame.iterrows()):
        done = row["status"] == "done"
        mask = strip(mask_of(row)) if done else Markup("")
        first = [word(row[name]) for name in ("model", "objective", "algo")]
        rows.append(
            [
                Value(
                    str(row["status"]),
                    str(row["status"]),
                    anchor(str(row["cell"])) if row["cell"] in m.shown else "",
                ),
                *first,
                numeric(_size(row), "{:.0f}"),
                word(row["calibration"]),
                numeric(row["seed"], "{:.0f}"),
                Value(mask, " ".join(f"{b:03d}" for b in row["dropped"]) if done else LAST),
                numeric(row["loss"] - row["dense_loss"], "{:+.3f}"),
                *(numeric(values.iloc[i], None) for values in shown.values()),
                numeric(row["asked"], "{:,.0f}"),
                numeric(row["seconds"], "{:,.0f}"),
            ]
        )
    headings = [("cell", False), ("model", False), ("objective", False), ("search", False), ("k", True)]
    headings += [("data", False), ("seed", True), (f"{noun(m.cells)} removed", False), ("loss added", True)]
    headings += [*((named[kind], True) for kind in shown), ("asked", True), ("seconds", True)]
    return Table("cells", "Every cell of the study; the first column links to its entry", headings, rows)


def _size(row: pd.Series[Any]) -> float | None:
    """How many units a cell removes. With a budget, only the mask shows it."""
    if not isinstance(row["cost"], str):
        return None if pd.isna(row["k"]) else float(row["k"])
    return len(row["dropped"]) if row["status"] == "done" else None


def _accuracy(m: StudyData) -> Built:
    return _outcome(m, "acc", "table1_accuracy", "margin")


def _perplexity(m: StudyData) -> Built:
    return _outcome(m, "ppl", "table2_perplexity", "perplexity")


def _outcome(m: StudyData, kind: str, paper: str, objective: str) -> Built:
    if kind not in m.metrics:
        raise NothingToRead(f"no {'accuracy' if kind == 'acc' else 'perplexity'} was measured in this study.")
    rows = aggregate(m.frame, m.metrics[kind], paper, objective)
    digits = 1 if kind == "acc" else 2

    def value(row: Any) -> Value:
        return Value(shown_value(pd.Series(row._asdict()), digits), sorted_by(row.mean))

    names = {"objective": "pruned for", "model": "model", "k": "k", "algo": "search"}
    columns: list[Column] = [
        *((text, name == "k", of(name, "{:.0f}")) for name, text in names.items()),
        (m.metrics[kind].label, True, value),
        ("nothing removed", True, of("dense", f"{{:.{digits}f}}")),
    ]
    if rows["paper"].notna().any():
        columns.append(("paper", True, of("paper", "{:.2f}")))
    return built(rows, columns)


def _search(m: StudyData) -> Built:
    rows = table3_search.aggregate(m.frame, m.lines)
    plain = [("model", "model"), ("k", "k"), ("algo", "search"), ("cells", "cells")]
    columns = [(text, name in ("k", "cells"), of(name, "{:.0f}")) for name, text in plain]
    alone = dict.fromkeys(("seconds_alone", "forwards_alone"), " alone")
    columns += [
        (text + alone.get(name, ""), True, of(name, None)) for name, text in table3_search.MEASURES.items()
    ]
    if rows["paper_seconds"].notna().any():
        columns.append(("paper, seconds", True, of("paper_seconds", "{:,.0f}")))
    return built(rows, columns)


TABLES: dict[str, tuple[str, Callable[[StudyData], Built]]] = {
    "accuracy": (
        "Accuracy by objective and search, in percent: mean and standard deviation over cells",
        _accuracy,
    ),
    "perplexity": (
        "Perplexity by objective and search: geometric mean over cells, and its spread as a factor",
        _perplexity,
    ),
    "crossed": (
        "Outcomes by objective: means over cells (geometric for perplexities, whose sd is a factor), and cost",
        statistics_tables.crossed,
    ),
    "search": (
        "Cost of each search: means over objectives, calibration data and draws; alone: as if no other cell had "
        "computed a score",
        _search,
    ),
    "shares": (
        "Shares of variance within model and k, with 95 percent intervals and permutation tests; shares below 0 are "
        "shown as 0",
        statistics_tables.shares,
    ),
    "across": (
        "Shares of the sum of squares over all cells: model, ratio and their interactions",
        statistics_tables.across,
    ),
    "overlap": (
        "Overlap of masks that differ in one factor only: means over pairs; corrected: 0 is chance, 1 the maximum",
        statistics_tables.overlap,
    ),
    "overlap_by_objective": (
        "The same overlaps for each objective, with 95 percent intervals over calibration draws",
        statistics_tables.overlap_by_objective,
    ),
    "agreement": (
        "Agreement of rankings of the searches, by panel and statistic",
        statistics_tables.agreement,
    ),
    "stability": (
        "How often other samples would choose another mask: means over cells, and the number of samples needed",
        statistics_tables.stability,
    ),
}
SIZES: dict[str, tuple[str, Callable[[StudyData], Built]]] = {
    "sizes": (
        "Fewer and more calibration samples, for the same searches and draws: corrected overlap of the masks of two "
        "draws with its 95 percent interval, and mean outcomes (geometric for perplexity)",
        statistics_tables.sizes,
    )
}
ROUTING: dict[str, tuple[str, Callable[[StudyData], Built]]] = {
    "routing": (
        "Accuracy on held-out items, as a mean over tasks, if a policy chooses the set for each prompt",
        routing.table,
    )
}
