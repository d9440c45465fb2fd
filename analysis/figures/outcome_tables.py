"""Tables 1 to 3: accuracy and perplexity of the masks, and what the searches cost.

depth-pruning figure table1 --results results --study small

Source: tables 1 to 3 of arXiv 2604.24938. Table 1 of the paper has only masks pruned for margin, and table 2 only
masks pruned for perplexity. If the paper has numbers for a model and k, they are in the column after the study's own;
the paper's means of perplexities are arithmetic. The CSVs also have each individual metric and the calibration loss.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..data.load import Metric, choose, done, names
from ..data.study import AskedStudy
from ..paper import check
from ..stats import regret
from ..stats.crossed import Trace
from ..stats.grid import STRATUM, size, strata_of
from . import style
from .cli import Drawing, StudyFigure
from .style import DASH, GREY, INK, LARGE, PAGE, named, number, rows_of

GROUP = ["objective", *STRATUM, "algo"]
# The paper's tables: name, objective, and what its averages are over.
PAPER = {
    "acc": ("table1_accuracy", "margin", "six tasks"),
    "ppl": ("table2_perplexity", "perplexity", "WikiText-2, C4 and LAMBADA"),
}


def aggregate(frame: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """One row for each objective, model, k and algorithm of the study, even if no cell of the row is finished.

    `asked` counts all cells of a row, and `cells` the finished ones that have the metric. `mean` and `sd` (ddof 1)
    are over these; so are `geometric` and `factor`, the exponentials of the mean and the sd of the logarithms (for
    perplexities). `paper` is the published average. The paper has this average for one objective only.
    """
    finished = done(frame)
    values = finished.assign(value=metric.of(finished), dense=metric.of(finished, "dense"))
    asked = frame.groupby(GROUP).size().rename("asked")
    by = values.groupby(GROUP)
    rows = pd.DataFrame({"cells": by["value"].count(), "mean": by["value"].mean(), "sd": by["value"].std()})
    rows = rows.assign(dense=by["dense"].mean(), loss=by["loss"].mean())
    if metric.kind == "ppl":
        logs = values.assign(log=np.log(values["value"].astype(float))).groupby(GROUP)["log"]
        rows = rows.assign(geometric=np.exp(logs.mean()), factor=np.exp(logs.std()))
    every = [f"pruned/{name}" for name in names(frame, metric.kind)]
    rows = rows.join(by[every].mean()).join(asked, how="outer").reset_index()
    rows["cells"] = rows["cells"].fillna(0).astype(int)
    name, objective, _ = PAPER[metric.kind]
    published = check.pruned(name)
    rows["paper"] = [
        check.value(published, "average", str(m), int(k), str(a)) if o == objective else np.nan
        for o, m, k, a in rows[GROUP].itertuples(index=False)
    ]
    return rows


def typeset(rows: pd.DataFrame, metric: Metric) -> Figure:
    """One row per objective and algorithm; one column per model and k.

    If the paper has numbers for a model and k, its column follows.
    """
    name, _, averaged = PAPER[metric.kind]
    columns, keys = [], []
    for model, k in strata_of(rows):
        columns.append((model, size(model, k)))
        keys.append((model, k, "mean"))
        if rows_of(rows, model=model, k=k)["paper"].notna().any():
            columns.append((model, "paper"))
            keys.append((model, k, "paper"))
    dense = []
    for model, _, which in keys:
        mean = rows_of(rows, model=model)["dense"].mean()
        own = number(mean) if metric.kind == "ppl" or np.isnan(mean) else f"{mean:.1f}"
        dense.append(own if which == "mean" else f"{check.dense(name, model):.2f}")
    lines = [TableLine("nothing removed", dense, heading=True)]
    for objective in style.objectives(rows["objective"]):
        lines.append(TableLine(f"pruned for {named(objective)}", [], heading=True))
        of_objective = rows_of(rows, objective=objective)
        for algo in style.ordered(of_objective["algo"]):
            own_rows = rows_of(of_objective, algo=algo)
            lines.append(
                TableLine(named(algo), [_value(rows_of(own_rows, model=m, k=k), w) for m, k, w in keys])
            )
    unit = " in percent" if metric.kind == "acc" else ""
    spreads = "mean ± standard deviation"
    if metric.kind == "ppl":
        spreads = f"geometric mean {SPREAD} factor (one standard deviation of the logarithm)"
    paper = f"paper: its mean over {averaged}; " if rows["paper"].notna().any() else ""
    known = sorted({int(n) for n in rows["asked"].dropna()})
    n = " to ".join(map(str, dict.fromkeys((known[0], known[-1]))))
    cells = f"n = {n} cell{'s' * (known != [1])} (calibration data, draws and seeds)"
    note = f"{spreads}; {cells}; {paper}(n/m): n of m cells are done"
    return table(columns, lines, f"Table {name[5]}: {metric.label}{unit}, of masks held out", note)


def _value(rows: pd.DataFrame, which: str) -> str:
    if rows.empty:
        return ""
    row = rows.iloc[0]
    if which == "paper":
        return "" if np.isnan(row["paper"]) else f"{row['paper']:.2f}"
    return shown_value(row)


def shown_value(row: pd.Series[Any]) -> str:
    """Mean and spread of a row of `aggregate`: geometric for perplexities, as in `53.2 ± 1.1 (5/6)`.

    The numbers of finished and of all cells follow if some are missing. If all are, a dash replaces the numbers.
    """
    count, asked = int(row["cells"]), int(row["asked"])
    if "geometric" in row.index:  # "times or divided by" (Limpert et al. 2001)
        shown, sign = [number(row["geometric"]), style.factor(row["factor"])], SPREAD
    else:
        shown = [number(v) if abs(v) >= LARGE else f"{v:,.1f}" for v in (row["mean"], row["sd"])]
        sign = "±"
    if not count:
        return f"{DASH} (0/{asked})" if asked else DASH
    text = f" {sign} ".join(shown) if count > 1 else shown[0]
    return text if count == asked else f"{text} ({count}/{asked})"


# Table 3. Means are over calibration data, draws and objectives. Cells share scores, so the recorded seconds of a
# cell depend on which cells ran before it. The table therefore shows what the search costs alone: every score at the
# seconds that it took in the cell that computed it (see `stats/regret.py`). `paid` counts the scores that the cells
# of this study computed themselves.

MEASURES = {
    "asked": "scores asked",
    "seconds_alone": "seconds",
    "forwards_alone": "block forwards",
    "paid": "scores paid",
}
SEARCH_GROUP = [*STRATUM, "algo"]


def search_means(frame: pd.DataFrame, lines: Mapping[str, Trace]) -> pd.DataFrame:
    """One row for each model, k and algorithm: mean cost, number of cells, and the paper's seconds.

    `seconds` and `block_forwards` are as recorded, so they depend on the order in which the cells ran.
    """
    measured = ["asked", "paid", "shared", "seconds", "block_forwards", "block_forwards_alone", "peak_memory"]
    measured += ["seconds_alone", "forwards_alone"]
    finished = done(frame)
    finished = finished.join(regret.alone(finished, lines))
    by = finished.astype(dict.fromkeys(measured, float)).groupby(SEARCH_GROUP)
    rows = by[measured].mean().assign(cells=by.size())
    rows = rows.join(frame.groupby(SEARCH_GROUP).size().rename("asked_cells"), how="outer").reset_index()
    paper = check.read("table3_search_seconds")
    rows["paper_seconds"] = [
        check.value(paper, "seconds", str(m), int(k), str(a))
        for m, k, a in rows[SEARCH_GROUP].itertuples(index=False)
    ]
    return rows


def typeset_search(rows: pd.DataFrame) -> Figure:
    """One row per model, k and algorithm; one column per measure."""
    paper = bool(rows["paper_seconds"].notna().any())
    columns = [
        ("in this study" if name == "paid" else "a search alone", word) for name, word in MEASURES.items()
    ]
    columns += [("in this study", "cells"), *([("paper", "seconds")] if paper else [])]
    lines = []
    for model, k in strata_of(rows):
        lines.append(TableLine(style.stratum(model, k).replace("\n", " "), [], heading=True))
        of_stratum = rows_of(rows, model=model, k=k).set_index("algo")
        for algo in style.ordered(of_stratum.index):
            row: Any = of_stratum.loc[algo]
            values = [number(row[name]) for name in MEASURES]
            values.append(f"{0 if np.isnan(row['cells']) else int(row['cells'])}/{int(row['asked_cells'])}")
            values.append("" if np.isnan(row["paper_seconds"]) else number(row["paper_seconds"]))
            lines.append(TableLine(named(algo), values[: len(columns)]))
    note = "means over objectives, calibration data and draws; "
    note += "seconds: each score at the time that it took where it was computed, and the search's own; "
    note += "block forwards: one block over all samples, nothing shared; "
    note += "paid: computed by the cell itself, as other cells share theirs"
    return table(columns, lines, "Table 3: what the searches cost", note)


# Tables drawn as figures for print, with rules, right-aligned numbers and groups of lines.

ROW = 0.155  # inches
SPREAD = "\N{MULTIPLICATION SIGN}\N{DIVISION SIGN}"  # between a geometric mean and its factor
NARROW = 0.85  # inches: in narrower columns, a mean stands without its spread


@dataclass(frozen=True)
class TableLine:
    """One line of a table: its name, its values, and whether the line is a heading. A heading starts a group."""

    name: str
    values: Sequence[str]
    heading: bool = False


def table(columns: Sequence[tuple[str, str]], lines: Sequence[TableLine], title: str, note: str) -> Figure:
    """Draw a table. Columns have an upper and a lower heading. Equal upper headings are joined if adjacent."""
    first = 0.15 + 0.06 * max(len(line.name) for line in lines)
    width = min(1.3, (PAGE - first - 0.05) / len(columns))
    note = style.wrapped(note, 138)
    bottom = len(lines) + 3.6
    figure = Figure(figsize=(PAGE, ROW * (bottom + 1 + note.count("\n"))))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, PAGE), ylim=(bottom + 1 + note.count("\n"), 0))
    axes.set_axis_off()
    end = first + width * len(columns)
    axes.text(0.05, 0.7, title, weight="bold", fontsize=style.TITLE + 0.5, color=INK, va="center")
    rights = [first + width * (i + 1) for i in range(len(columns))]
    for upper, group in groupby(zip(columns, rights, strict=True), key=lambda pair: pair[0][0]):
        ends = [right for _, right in group]
        if upper:
            left = ends[0] - width + 0.12
            axes.text((left + ends[-1]) / 2, 1.9, named(upper), ha="center", va="center")
            axes.hlines(2.4, left, ends[-1], color="black", lw=0.5)
    for right, (_, lower) in zip(rights, columns, strict=True):
        axes.text(right, 2.9, lower, ha="right", va="center", color=GREY)
    for row, line in enumerate(lines, start=3):
        if line.heading:
            axes.hlines(row + 0.45, 0.05, end, color="black", lw=0.7 if row == 3 else 0.3)
        look: dict[str, Any] = {"va": "center", "style": "italic" if line.heading else "normal"}
        axes.text(0.05 if line.heading else 0.13, row + 1, line.name, **look)
        for right, value in zip(rights, line.values, strict=False):
            mean, _, count = value.partition(" (")
            short = mean.split(" ")[0] + (f" ({count}" if count else "")
            axes.text(right, row + 1, short if width < NARROW else value, ha="right", va="center")
    axes.hlines([1.35, len(lines) + 3.5], 0.05, end, color="black", lw=1.2)
    axes.text(0.05, bottom + 0.2, note, color=GREY, va="top")
    return figure


def _outcome(study: AskedStudy, kind: str, name: str | None) -> Drawing:
    metric = choose(study.frame, kind, name)
    rows = aggregate(study.frame, metric)
    return Drawing(typeset(rows, metric), rows)


def _accuracy(study: AskedStudy, given: Namespace) -> Drawing:
    return _outcome(study, "acc", given.accuracy)


def _perplexity(study: AskedStudy, given: Namespace) -> Drawing:
    return _outcome(study, "ppl", given.perplexity)


def _search(study: AskedStudy, _: Namespace) -> Drawing:
    rows = search_means(study.frame, study.lines)
    return Drawing(typeset_search(rows), rows)


TABLE1 = StudyFigure("table1_accuracy", "Accuracy of the masks", _accuracy, metrics=True)
TABLE2 = StudyFigure("table2_perplexity", "Perplexity of the masks", _perplexity, metrics=True)
TABLE3 = StudyFigure("table3_search", "What the searches cost", _search)
