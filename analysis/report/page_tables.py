"""The sortable tables of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
from markupsafe import Markup

from ..data.archive import NothingToRead
from ..figures import fig4_overlap, outcome_tables
from ..figures.outcome_tables import aggregate, shown_value
from ..stats.grid import COMPARISONS, STRATUM, mask_of, noun
from . import summary
from .cells import LAST, Built, Column, Table, Value, anchor, built, numeric, shown, sorted_by, strip, word
from .study_data import StudyData

# The report's tables of statistics: outcomes by objective, variance shares, overlap, rank agreement, stability.


def _columns(
    names: list[str], whole: tuple[str, ...] = ("k", "pairs", "cells", "df", "samples", "length", "draws")
) -> list[Column]:
    """Columns of whole numbers for the names in `whole`, and columns of text for the other names."""
    return [(name, name in whole, shown(name, "{:,.0f}")) for name in names]


def _numbers(names: list[str], digits: int) -> list[Column]:
    return [(name.replace("_", " "), True, shown(name, f"{{:,.{digits}f}}")) for name in names]


def crossed(m: StudyData) -> Built:
    """The mean of each outcome for each objective; accuracies are in percent."""
    matrix = m.crossed[0]
    ends = matrix[["low", "high"]].abs()  # accuracies are negative in the matrix and positive in the table
    matrix = matrix.assign(mean=matrix["mean"].abs(), low=ends.min(axis=1), high=ends.max(axis=1))
    names, means = ["outcome", *STRATUM, "objective", "cells"], ["mean", "low", "high"]
    return built(
        matrix, [*_columns(names), *_numbers(means, 2), ("sd", True, _spread), *_numbers(["cost"], 2)]
    )


def _spread(row: Any) -> Value:
    """The standard deviation. Its unit is percentage points for an accuracy; for a perplexity, it is a factor."""
    return numeric(row.sd, "\N{MULTIPLICATION SIGN} {:,.2f}" if row.geometric else "{:.2f}")


def shares(m: StudyData) -> Built:
    """Shares of variance, with the reason if there is no p-value."""
    columns = [
        *_columns(["outcome", "source"]),
        *_numbers(["share", "low", "high"], 2),
        *_numbers(["p", "q"], 3),
    ]
    return built(m.shares[1], [*columns, ("reason if missing", False, shown("p_note", None))])


def across(m: StudyData) -> Built:
    """Shares of the sum of squares for model, ratio and their interactions."""
    columns = [*_columns(["outcome", "source", "df"]), *_numbers(["share", "p", "q"], 3)]
    return built(m.across, [*columns, ("reason if missing", False, shown("note", None))])


def overlap(m: StudyData) -> Built:
    """Mean overlap of pairs of masks, by model and by the factor in which they differ."""
    rows = fig4_overlap.means(m.overlaps).rename(columns={"comparison": "differ"})
    names = _columns(["differ", "model", "pairs", "draws"])
    return built(rows, [*names, *_numbers(["jaccard", "corrected", "low", "high"], 2)])


def overlap_by_objective(m: StudyData) -> Built:
    """As `overlap`, for each model, k and objective. Pairs that differ in one of these are left out."""
    within = [name for name, columns in COMPARISONS.items() if not {"objective", "k"} & {*columns}]
    pairs = m.overlaps[m.overlaps["comparison"].isin(within)]
    rows = fig4_overlap.means(pairs, ["comparison", *STRATUM, "objective"])
    names = _columns(["differ", *STRATUM, "objective", "pairs", "draws"])
    return built(
        rows.rename(columns={"comparison": "differ"}),
        [*names, *_numbers(["jaccard", "corrected", "low", "high"], 2)],
    )


def agreement(m: StudyData) -> Built:
    """Every statistic of rank agreement, for every panel."""
    columns = _columns(["objective", *STRATUM, "statistic", "of", "masks"])
    columns += [*_numbers(["value", "low", "high"], 2), *_numbers(["p", "q"], 3)]
    return built(m.agreements, [*columns, ("reason if missing", False, shown("note", None))])


def stability(m: StudyData) -> Built:
    """Means over the cells whose last decision can be resampled.

    The mean number of samples needed is over the cells in which this number is known.
    """
    where = ["objective", *STRATUM, "samples", "algo"]
    measured = ["other_mask", "overlap", "enough_pair"]
    rows = m.stability[0].astype(dict.fromkeys(measured, float))
    by = rows.groupby(where, dropna=False)
    means = by[measured].mean().assign(cells=by["other_mask"].count(), enough_in=by["enough_pair"].count())
    columns = [*_columns([*where, "cells"]), *_numbers(["other_mask", "overlap"], 2)]
    columns += [
        ("samples needed", True, shown("enough_pair", "{:.0f}")),
        ("cells with this number", True, shown("enough_in", "{:.0f}")),
    ]
    return built(pd.DataFrame(means).reset_index(), columns)


def sizes(m: StudyData) -> Built:
    """Overlap of two draws and mean outcomes at each number of samples."""
    names = ["objective", *STRATUM, "calibration", "length", "samples", "cells", "draws"]
    columns = [*_columns(names), *_numbers(["corrected", "low", "high"], 2)]
    digits = {"ppl": 2, "acc": 1}
    for kind, metric in m.metrics.items():
        columns.append((metric.label, True, shown(kind, f"{{:,.{digits[kind]}f}}")))
    return built(m.sizes, columns)


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
    yield from summary.tables(m)


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
        *((text, name == "k", shown(name, "{:.0f}")) for name, text in names.items()),
        (m.metrics[kind].label, True, value),
        ("nothing removed", True, shown("dense", f"{{:.{digits}f}}")),
    ]
    if rows["paper"].notna().any():
        columns.append(("paper", True, shown("paper", "{:.2f}")))
    return built(rows, columns)


def _search(m: StudyData) -> Built:
    rows = outcome_tables.search_means(m.frame, m.lines)
    plain = [("model", "model"), ("k", "k"), ("algo", "search"), ("cells", "cells")]
    columns = [(text, name in ("k", "cells"), shown(name, "{:.0f}")) for name, text in plain]
    alone = dict.fromkeys(("seconds_alone", "forwards_alone"), " alone")
    columns += [
        (text + alone.get(name, ""), True, shown(name, None))
        for name, text in outcome_tables.MEASURES.items()
    ]
    if rows["paper_seconds"].notna().any():
        columns.append(("paper, seconds", True, shown("paper_seconds", "{:,.0f}")))
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
        crossed,
    ),
    "search": (
        "Cost of each search: means over objectives, calibration data and draws; alone: as if no other cell had "
        "computed a score",
        _search,
    ),
    "shares": (
        "Shares of variance within model and k, with 95 percent intervals and permutation tests; shares below 0 are "
        "shown as 0",
        shares,
    ),
    "across": (
        "Shares of the sum of squares over all cells: model, ratio and their interactions",
        across,
    ),
    "overlap": (
        "Overlap of masks that differ in one factor only: means over pairs; corrected: 0 is chance, 1 the maximum",
        overlap,
    ),
    "overlap_by_objective": (
        "The same overlaps for each objective, with 95 percent intervals over calibration draws",
        overlap_by_objective,
    ),
    "agreement": (
        "Agreement of rankings of the searches, by panel and statistic",
        agreement,
    ),
    "stability": (
        "How often other samples would choose another mask: means over cells, and the number of samples needed",
        stability,
    ),
}
SIZES: dict[str, tuple[str, Callable[[StudyData], Built]]] = {
    "sizes": (
        "Fewer and more calibration samples, for the same searches and draws: corrected overlap of the masks of two "
        "draws with its 95 percent interval, and mean outcomes (geometric for perplexity)",
        sizes,
    )
}
ROUTING: dict[str, tuple[str, Callable[[StudyData], Built]]] = {
    "routing": (
        "Accuracy on held-out items, as a mean over tasks, if a policy chooses the set for each prompt",
        summary.table,
    )
}
