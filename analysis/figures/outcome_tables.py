"""The common code of tables 1 and 2: an outcome and the paper's value, by objective, algorithm, model and k."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..data.load import Metric, choose, done, names
from ..data.study import AskedStudy
from ..paper import check
from ..stats import regret
from ..stats.crossed import Trace
from ..stats.grid import STRATUM, bare, size, strata_of
from .cli import arguments, run
from .style import DASH, GREY, LARGE, SMALL, factor, number, ordered, save, wrapped

PAPER = {"acc": "table1_accuracy", "ppl": "table2_perplexity"}
AVERAGED = {"acc": "six tasks", "ppl": "WikiText-2, C4 and LAMBADA"}
GROUP = ["objective", *STRATUM, "algo"]


def aggregate(frame: pd.DataFrame, metric: Metric, paper: str, objective: str) -> pd.DataFrame:
    """One row for each objective, model, k and algorithm of the study, even if no cell of the row is finished.

    `asked` counts all cells of a row, and `cells` the finished ones that have the metric. `mean` and `sd` (ddof 1)
    are over these; so are `geometric` and `factor`, the exponentials of the mean and the sd of the logarithms (for
    perplexities). `paper` is the published average. The paper has this average only for the objective `objective`.
    """
    finished = done(frame)
    every = names(frame, metric.kind)
    values = finished.assign(value=metric.of(finished), dense=metric.of(finished, "dense"))
    asked = frame.groupby(GROUP).size().rename("asked")
    by = values.groupby(GROUP)
    rows = pd.DataFrame({"cells": by["value"].count(), "mean": by["value"].mean(), "sd": by["value"].std()})
    rows = rows.assign(dense=by["dense"].mean(), loss=by["loss"].mean())
    if metric.kind == "ppl":
        logs = values.assign(log=np.log(values["value"].astype(float))).groupby(GROUP)["log"]
        rows = rows.assign(geometric=np.exp(logs.mean()), factor=np.exp(logs.std()))
    rows = rows.join(by[[f"pruned/{name}" for name in every]].mean()).join(asked, how="outer").reset_index()
    rows["cells"] = rows["cells"].fillna(0).astype(int)
    table1 = check.pruned(paper)
    rows["paper"] = [
        check.value(table1, "average", str(m), int(k), str(a)) if o == objective else np.nan
        for o, m, k, a in rows[GROUP].itertuples(index=False)
    ]
    return rows


def typeset(rows: pd.DataFrame, metric: Metric, title: str, which: int) -> Figure:
    """One row per objective and algorithm; one column per model and k.

    If the paper has numbers for a model and k, its column follows.
    """
    strata = strata_of(rows)
    digits = 1 if metric.kind == "acc" else 2
    columns, keys = [], []
    for model, k in strata:
        columns.append((f"{model}", size(model, k)))
        keys.append((model, k, "mean"))
        if rows.loc[(rows["model"] == model) & (rows["k"] == k), "paper"].notna().any():
            columns.append((f"{model}", "paper"))
            keys.append((model, k, "paper"))
    lines = [
        Line(
            "nothing removed",
            [_dense(rows, metric.kind, m, which_, digits) for m, _, which_ in keys],
            heading=True,
        )
    ]
    for objective in sorted(rows["objective"].unique()):
        lines.append(Line(f"pruned for {objective}", [], heading=True))
        of_objective = rows[rows["objective"] == objective]
        for algo in ordered(of_objective["algo"]):
            of_algo = of_objective[of_objective["algo"] == algo]
            lines.append(Line(algo, [_value(of_algo, *key, digits) for key in keys]))
    unit = " in percent" if metric.kind == "acc" else ""
    paper = f"paper: its mean over {AVERAGED[metric.kind]}; " if rows["paper"].notna().any() else ""
    spreads = "mean ± standard deviation"
    if metric.kind == "ppl":
        spreads = f"geometric mean {TIMES} factor (one standard deviation of the logarithm)"
    note = f"table {which}: {metric.label}{unit}; {spreads}; {counted(rows)}; "
    return table(columns, lines, title, note + paper + "(n/m): n of m cells are done", _width(strata))


def counted(rows: pd.DataFrame) -> str:
    """What the means of a table are over: `n = 6 cells (calibration data, draws and seeds)`."""
    known = sorted({int(n) for n in rows["asked"].dropna()})
    n = f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"
    return f"n = {n} cell{'s' * (known != [1])} (calibration data, draws and seeds)"


def _width(strata: Sequence[tuple[str, int]]) -> float:
    """The width of a column in inches: a label of a model must fit above the columns of its sizes."""
    columns = Counter(model for model, _ in strata if bare(model) != model)
    return max([1.12, *(0.2 + 0.06 * len(model) / n for model, n in columns.items())])


def _dense(rows: pd.DataFrame, kind: str, model: str, which: str, digits: int) -> str:
    if which == "paper":
        return f"{check.dense(PAPER[kind], model):.2f}"
    dense = rows.loc[rows["model"] == model, "dense"].mean()
    return f"{dense:.{digits}f}" if dense == dense and kind == "acc" else number(dense)


def _value(rows: pd.DataFrame, model: str, k: float, which: str, digits: int) -> str:
    row = rows[(rows["model"] == model) & (rows["k"] == k)]
    if row.empty:
        return ""
    value = row.iloc[0]
    if which == "paper":
        return "" if np.isnan(value["paper"]) else f"{value['paper']:.2f}"
    return shown_value(value, digits)


def shown_value(row: Any, digits: int) -> str:
    """Mean and spread of a row of `aggregate`: geometric for perplexities."""
    counts = int(row["cells"]), int(row["asked"])
    if "geometric" in row.index:
        return times(float(row["geometric"]), float(row["factor"]), *counts)
    return spread(float(row["mean"]), float(row["sd"]), *counts, digits)


# Table 1: zero-shot accuracy of the masks, by objective and algorithm; mean and standard deviation over draws.
#
# python -m analysis table1 --results results --study small
#
# Source: table 1 of arXiv 2604.24938, which has only masks pruned for margin. If the paper has numbers for a model
# and k, they are in the column after the study's own. The CSV also has each individual metric and the calibration
# loss.


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    metric = choose(frame, "acc", given.accuracy)
    rows = aggregate(frame, metric, "table1_accuracy", "margin")
    return save(typeset(rows, metric, title, 1), rows, given.out, "table1_accuracy")


def table1() -> None:
    """Draw the table for a results folder."""
    run("table1_accuracy", arguments("Accuracy of the masks.", metrics=True), _write)


# Table 2: perplexity of the masks, by objective and algorithm: geometric mean, and spread over draws as a factor.
#
# python -m analysis table2 --results results --study small
#
# Source: table 2 of arXiv 2604.24938, which has only masks pruned for perplexity. If the paper has numbers for a
# model and k, they are in the column after the study's own; these are arithmetic. The CSV also has the arithmetic
# mean and standard deviation, each individual metric and the calibration loss.


def _write_perplexity(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    metric = choose(frame, "ppl", given.perplexity)
    rows = aggregate(frame, metric, "table2_perplexity", "perplexity")
    return save(typeset(rows, metric, title, 2), rows, given.out, "table2_perplexity")


def table2() -> None:
    """Draw the table for a results folder."""
    run("table2_perplexity", arguments("Perplexity of the masks.", metrics=True), _write_perplexity)


# Table 3: the cost of the searches: scores asked for, seconds and block forwards of a search alone, scores paid.
#
# python -m analysis table3 --results results --study small
#
# Source: table 3 of arXiv 2604.24938 (seconds). Means are over calibration data, draws and objectives. Cells share
# scores, so the recorded seconds of a cell depend on which cells ran before it. The table therefore shows what the
# search costs alone: every score at the seconds that it took in the cell that computed it (see
# `stats/search_cost.py`). `paid` counts the scores that the cells of this study computed themselves.

MEASURES = {
    "asked": "scores asked",
    "seconds_alone": "seconds",
    "forwards_alone": "block forwards",
    "paid": "scores paid",
}
ALONE = ("asked", "seconds_alone", "forwards_alone")
SEARCH_GROUP = [*STRATUM, "algo"]


def search_means(frame: pd.DataFrame, lines: Mapping[str, Trace]) -> pd.DataFrame:
    """One row for each model, k and algorithm: mean cost, number of cells, and the paper's seconds.

    `seconds` and `block_forwards` are as recorded, so they depend on the order in which the cells ran.
    """
    measured = ["asked", "paid", "shared", "seconds", "block_forwards", "block_forwards_alone", "peak_memory"]
    finished = done(frame)
    finished = finished.join(regret.alone(finished, lines))
    measured += ["seconds_alone", "forwards_alone"]
    by = finished.astype(dict.fromkeys(measured, float)).groupby(SEARCH_GROUP)
    rows = by[measured].mean().assign(cells=by.size())
    rows = rows.join(frame.groupby(SEARCH_GROUP).size().rename("asked_cells"), how="outer").reset_index()
    paper = check.read("table3_search_seconds")
    rows["paper_seconds"] = [
        check.value(paper, "seconds", str(m), int(k), str(a))
        for m, k, a in rows[SEARCH_GROUP].itertuples(index=False)
    ]
    return rows


def typeset_search(rows: pd.DataFrame, title: str) -> Figure:
    """One row per model, k and algorithm; one column per measure."""
    paper = bool(rows["paper_seconds"].notna().any())
    columns = [
        ("a search alone" if name in ALONE else "in this study", word) for name, word in MEASURES.items()
    ]
    columns += [("in this study", "cells"), *([("paper", "seconds")] if paper else [])]
    lines = []
    for model, k in strata_of(rows):
        lines.append(Line(f"{model}, {size(model, k)}", [], heading=True))
        of_stratum = rows[(rows["model"] == model) & (rows["k"] == k)].set_index("algo")
        for algo in ordered(of_stratum.index):
            row: Any = of_stratum.loc[algo]
            cells = 0 if np.isnan(row["cells"]) else int(row["cells"])
            values = [number(row[name]) for name in MEASURES]
            values.append(f"{cells}/{int(row['asked_cells'])}")
            lines.append(Line(algo, [*values, *([_paper(row["paper_seconds"])] if paper else [])]))
    note = "table 3: means over objectives, calibration data and draws; "
    note += "seconds: each score at the time that it took where it was computed, and the search's own; "
    note += "block forwards: one block over all samples, nothing shared; "
    note += "paid: computed by the cell itself, as other cells share theirs"
    return table(columns, lines, title, note, 1.05)


def _paper(seconds: float) -> str:
    return "" if np.isnan(seconds) else number(seconds)


def _write_search(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    rows = search_means(frame, study.lines)
    return save(typeset_search(rows, title), rows, given.out, "table3_search")


def table3() -> None:
    """Draw the table for a results folder."""
    run("table3_search", arguments("What the searches cost."), _write_search)


# Tables drawn as figures for print, with rules, right-aligned numbers and groups of lines.

ROW, TOP, FOOT = 0.19, 0.42, 0.3  # heights in inches
SIZE = 7.5
TIMES = "\N{MULTIPLICATION SIGN}\N{DIVISION SIGN}"  # between a geometric mean and its factor


@dataclass(frozen=True)
class Line:
    """One line of a table: its name, its values, and whether the line is a heading. A heading starts a group."""

    name: str
    values: Sequence[str]
    heading: bool = False


@dataclass(frozen=True)
class _Sheet:
    """A figure in which positions are given in inches from the left and in rows from the top."""

    figure: Figure
    width: float
    height: float
    above: float

    def y(self, row: float) -> float:
        return 1 - (self.above + ROW * row) / self.height

    def text(self, x: float, row: float, text: str, **style: Any) -> None:
        style = {"fontsize": SIZE, "va": "center", **style}
        self.figure.text(x / self.width, self.y(row), text, **style)

    def rule(self, row: float, weight: float, start: float = 0.05, end: float | None = None) -> None:
        x = [start / self.width, (self.width - 0.05 if end is None else end) / self.width]
        self.figure.add_artist(Line2D(x, [self.y(row)] * 2, color="black", lw=weight))


def table(
    columns: Sequence[tuple[str, str]], lines: Sequence[Line], title: str, note: str, width: float = 0.95
) -> Figure:
    """Draw a table. Columns have an upper and a lower heading. Equal upper headings are joined if adjacent."""
    first = 0.12 + 0.068 * max(len(line.name) for line in lines)
    total = first + width * len(columns) + 0.1
    title, note = wrapped(title, int(total * 15)), wrapped(note, int(total * 17), "; ")
    above = TOP + 0.13 * title.count("\n")
    height = above + ROW * (len(lines) + 2) + FOOT + 0.12 * note.count("\n")
    sheet = _Sheet(Figure(figsize=(total, height)), total, height, above)
    place: dict[str, Any] = {"ha": "left", "va": "top"}
    sheet.figure.text(0.05 / total, 1 - 0.1 / height, title, fontsize=SMALL + 0.5, color=GREY, **place)
    rights = [first + width * (i + 1) for i in range(len(columns))]
    _headings(sheet, columns, rights, width)
    _body(sheet, lines, rights)
    sheet.text(0.05, len(lines) + 2.3, note, fontsize=SMALL, color=GREY, va="top")
    return sheet.figure


def _headings(
    sheet: _Sheet, columns: Sequence[tuple[str, str]], rights: Sequence[float], width: float
) -> None:
    sheet.rule(-0.2, 1.2)
    for start, end in _spans([upper for upper, _ in columns]):
        left, right = rights[start] - width, rights[end - 1]
        if columns[start][0]:
            sheet.text((left + right) / 2 + 0.05, 0.4, columns[start][0], ha="center")
            sheet.rule(0.85, 0.5, left + 0.12, right)
    for right, (_, lower) in zip(rights, columns, strict=True):
        sheet.text(right, 1.35, lower, ha="right", color=GREY)
    sheet.rule(1.85, 0.7)


def _body(sheet: _Sheet, lines: Sequence[Line], rights: Sequence[float]) -> None:
    for row, line in enumerate(lines, start=2):
        if line.heading and row > 2:
            sheet.rule(row - 0.08, 0.3)
        style = "italic" if line.heading else "normal"
        sheet.text(0.08 if line.heading else 0.16, row + 0.42, line.name, style=style)
        for right, value in zip(rights, line.values, strict=False):
            sheet.text(right, row + 0.42, value, ha="right")
    sheet.rule(len(lines) + 2.0, 1.2)


def _spans(names: Sequence[str]) -> list[tuple[int, int]]:
    """The start of each run of equal adjacent names, and its end (exclusive)."""
    starts = [i for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    return list(zip(starts, [*starts[1:], len(names)], strict=True))


def spread(mean: float, sd: float, count: int, asked: int, digits: int) -> str:
    """Mean and sd as text: `53.2 ± 1.1`.

    If some cells are missing, `(5/6)` follows. If all are missing, a dash replaces the numbers.
    """
    shown = [number(v) if abs(v) >= LARGE else f"{v:,.{digits}f}" for v in (mean, sd)]
    return _counted(" ± ".join(shown) if count > 1 else shown[0], count, asked)


def times(mean: float, sd: float, count: int, asked: int) -> str:
    """Geometric mean and geometric sd as text, with the sign "times or divided by" between (Limpert et al. 2001).

    Missing cells are shown as by `spread`.
    """
    text = number(mean)
    return _counted(f"{text} {TIMES} {factor(sd)}" if count > 1 else text, count, asked)


def _counted(text: str, count: int, asked: int) -> str:
    if not count:
        return f"{DASH} (0/{asked})" if asked else DASH
    return text if count == asked else f"{text} ({count}/{asked})"
