"""The report's tables of statistics: outcomes by objective, variance shares, overlap, rank agreement, stability."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..figures import mask_overlaps
from ..stats.grid import COMPARISONS, STRATUM
from .study_data import StudyData
from .table_cells import Built, Column, Value, built, numeric, of


def _columns(
    names: list[str], whole: tuple[str, ...] = ("k", "pairs", "cells", "df", "samples", "length", "draws")
) -> list[Column]:
    """Columns of whole numbers for the names in `whole`, and columns of text for the other names."""
    return [(name, name in whole, of(name, "{:,.0f}")) for name in names]


def _numbers(names: list[str], digits: int) -> list[Column]:
    return [(name.replace("_", " "), True, of(name, f"{{:,.{digits}f}}")) for name in names]


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
    return built(m.shares[1], [*columns, ("reason if missing", False, of("p_note", None))])


def across(m: StudyData) -> Built:
    """Shares of the sum of squares for model, ratio and their interactions."""
    columns = [*_columns(["outcome", "source", "df"]), *_numbers(["share", "p", "q"], 3)]
    return built(m.across, [*columns, ("reason if missing", False, of("note", None))])


def overlap(m: StudyData) -> Built:
    """Mean overlap of pairs of masks, by model and by the factor in which they differ."""
    rows = mask_overlaps.means(m.overlaps).rename(columns={"comparison": "differ"})
    names = _columns(["differ", "model", "pairs", "draws"])
    return built(rows, [*names, *_numbers(["jaccard", "corrected", "low", "high"], 2)])


def overlap_by_objective(m: StudyData) -> Built:
    """As `overlap`, for each model, k and objective. Pairs that differ in one of these are left out."""
    within = [name for name, columns in COMPARISONS.items() if not {"objective", "k"} & {*columns}]
    pairs = m.overlaps[m.overlaps["comparison"].isin(within)]
    rows = mask_overlaps.means(pairs, ["comparison", *STRATUM, "objective"])
    names = _columns(["differ", *STRATUM, "objective", "pairs", "draws"])
    return built(
        rows.rename(columns={"comparison": "differ"}),
        [*names, *_numbers(["jaccard", "corrected", "low", "high"], 2)],
    )


def agreement(m: StudyData) -> Built:
    """Every statistic of rank agreement, for every panel."""
    columns = _columns(["objective", *STRATUM, "statistic", "of", "masks"])
    columns += [*_numbers(["value", "low", "high"], 2), *_numbers(["p", "q"], 3)]
    return built(m.agreements, [*columns, ("reason if missing", False, of("note", None))])


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
        ("samples needed", True, of("enough_pair", "{:.0f}")),
        ("cells with this number", True, of("enough_in", "{:.0f}")),
    ]
    return built(pd.DataFrame(means).reset_index(), columns)


def sizes(m: StudyData) -> Built:
    """Overlap of two draws and mean outcomes at each number of samples."""
    names = ["objective", *STRATUM, "calibration", "length", "samples", "cells", "draws"]
    columns = [*_columns(names), *_numbers(["corrected", "low", "high"], 2)]
    digits = {"ppl": 2, "acc": 1}
    for kind, metric in m.metrics.items():
        columns.append((metric.label, True, of(kind, f"{{:,.{digits[kind]}f}}")))
    return built(m.sizes, columns)
