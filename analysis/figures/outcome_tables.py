"""Tables 1 to 3 of arXiv 2604.24938: accuracy and perplexity of the masks, and what the searches cost.

Table 1 of the paper has only masks pruned for margin, and table 2 only masks pruned for perplexity. If the
paper has numbers for a model and k, an extra column shows them; they are arithmetic means.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..data.load import Metric, choose, done
from ..data.study import AskedStudy
from ..paper import check
from ..stats import regret
from ..stats.crossed import Trace
from ..stats.grid import STRATUM, strata_of
from . import style
from .cli import Drawing, StudyFigure
from .style import DASH, GREY, INK, LARGE, PAGE, named, number, rows_of

GROUP = ["objective", *STRATUM, "algo"]
# The paper's tables: name, objective, and the data that the values are averages over.
PAPER = {
    "acc": ("table1_accuracy", "margin", "six tasks"),
    "ppl": ("table2_perplexity", "perplexity", "WikiText-2, C4 and LAMBADA"),
}


def aggregate(frame: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """One row for each objective, model, k and algorithm of the study, even if no cell of the row is finished.

    `asked` is the number of all cells of a row, and `cells` the number of its finished cells with the metric, over
    which `mean` and `sd` (ddof 1) are taken. For perplexities, `geometric` and `factor` are exp(mean) and
    exp(standard deviation) of their logarithms. `paper` is the published average, if any.
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
    every = [f"pruned/{name}" for name in sorted((*metric.names, *metric.others))]
    rows = rows.join(by[every].mean()).join(asked, how="outer").reset_index()
    rows["cells"] = rows["cells"].fillna(0).astype(int)
    name, objective, _ = PAPER[metric.kind]
    published = check.of_pruned(name)
    rows["paper"] = [
        check.value(published, "average", str(m), int(k), str(a)) if o == objective else np.nan
        for o, m, k, a in rows[GROUP].itertuples(index=False)
    ]
    return rows


UNPRUNED = "nothing removed"


def outcome_texts(rows: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """The rows of `aggregate` as strings: a row of unpruned models, then a row per objective and search.

    Each model and k has a column, and a second column for the paper's numbers if there are any.
    """
    name, columns = PAPER[metric.kind][0], dict[str, list[str]]()
    lines = [
        (objective, algo)
        for objective in style.objectives(rows["objective"])
        for algo in style.ordered(rows_of(rows, objective=objective)["algo"])
    ]
    for model, k in strata_of(rows):
        own = rows_of(rows, model=model, k=k).set_index(["objective", "algo"])
        heading, mean = style.stratum(model, k, narrow=True), own["dense"].mean()
        dense = number(mean) if metric.kind == "ppl" or np.isnan(mean) else f"{mean:.1f}"
        texts = {key: shown_value(row) for key, row in own.iterrows()}
        columns[heading] = [dense, *(texts.get(line, "") for line in lines)]
        if paper := own["paper"].dropna().map("{:.2f}".format).to_dict():
            dense = f"{check.dense(name, model):.2f}"
            columns[f"{heading}, paper"] = [dense, *(paper.get(line, "") for line in lines)]
    groups = [("", UNPRUNED), *((f"pruned for {named(objective)}", named(algo)) for objective, algo in lines)]
    return pd.DataFrame(columns, pd.MultiIndex.from_tuples(groups))


def typeset(rows: pd.DataFrame, metric: Metric) -> Figure:
    """Draw table 1 or 2."""
    name, _, averaged = PAPER[metric.kind]
    unit = " in percent" if metric.kind == "acc" else ""
    spreads = "mean ± standard deviation"
    if metric.kind == "ppl":
        spreads = f"geometric mean {SPREAD} factor (one standard deviation of the logarithm)"
    paper = f"paper: its mean over {averaged}; " if rows["paper"].notna().any() else ""
    n = " to ".join(map(str, dict.fromkeys((int(rows["asked"].min()), int(rows["asked"].max())))))
    note = (
        f"{spreads}; n = {n} cells (calibration data, draws and seeds); {paper}(n/m): n of m cells are done"
    )
    title = f"Table {name[5]}: {metric.label}{unit}, of masks held out"
    return table(outcome_texts(rows, metric), title, note)


def shown_value(row: pd.Series[Any]) -> str:
    """Mean and spread of a row of `aggregate`, as in `53.2 ± 1.1 (5/6)`; for perplexities, both are geometric.

    If some cells are missing, the counts of finished and of all cells follow; if all are missing, the text is a dash.
    """
    count, asked = int(row["cells"]), int(row["asked"])
    if "geometric" in row.index:  # "times or divided by" (Limpert et al. 2001)
        shown, sign = [number(row["geometric"]), style.number(row["factor"])], SPREAD
    else:
        shown = [number(v) if abs(v) >= LARGE else f"{v:,.1f}" for v in (row["mean"], row["sd"])]
        sign = "±"
    if not count:
        return f"{DASH} (0/{asked})" if asked else DASH
    text = f" {sign} ".join(shown) if count > 1 else shown[0]
    return text if count == asked else f"{text} ({count}/{asked})"


# Table 3. Means are over calibration data, draws and objectives. Cells share scores, so the recorded seconds of a
# cell depend on which cells ran before it. So the table shows what a search costs alone: each score costs the
# seconds of the cell that computed it (`stats/regret.py`). `paid` counts the scores that the cells of this
# study computed themselves.

MEASURES = {"asked": "scores asked", "seconds_alone": "seconds", "paid": "scores paid"}
SEARCH_GROUP = [*STRATUM, "algo"]


def search_means(frame: pd.DataFrame, lines: Mapping[str, Trace]) -> pd.DataFrame:
    """One row for each model, k and algorithm: mean cost, number of cells, and the paper's seconds.

    `seconds` and `block_forwards` are as recorded, so they depend on the order in which the cells ran.
    """
    measured = ["asked", "paid", "shared", "seconds", "block_forwards", "block_forwards_alone", "peak_memory"]
    measured += ["seconds_alone"]
    finished = done(frame)
    finished = finished.join(regret.seconds_alone(finished, lines))
    by = finished.astype(dict.fromkeys(measured, float)).groupby(SEARCH_GROUP)
    rows = by[measured].mean().assign(cells=by.size())
    rows = rows.join(frame.groupby(SEARCH_GROUP).size().rename("asked_cells"), how="outer").reset_index()
    paper = check.read("table3_search_seconds")
    rows["paper_seconds"] = [
        check.value(paper, "seconds", str(m), int(k), str(a))
        for m, k, a in rows[SEARCH_GROUP].itertuples(index=False)
    ]
    return rows


def search_texts(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `search_means` as strings: a row per model, k and search, and a column per measure."""
    lines, index = [], []
    for model, k in strata_of(rows):
        of_stratum = rows_of(rows, model=model, k=k).set_index("algo")
        for algo in style.ordered(of_stratum.index):
            row: Any = of_stratum.loc[algo]
            line = {heading: number(row[name]) for name, heading in MEASURES.items()}
            line["cells"] = f"{0 if np.isnan(row['cells']) else int(row['cells'])}/{int(row['asked_cells'])}"
            if rows["paper_seconds"].notna().any():
                seconds = row["paper_seconds"]
                line["paper,\nseconds"] = "" if np.isnan(seconds) else number(seconds)
            lines.append(line)
            index.append((style.stratum(model, k).replace("\n", " "), named(algo)))
    return pd.DataFrame(lines, pd.MultiIndex.from_tuples(index))


def typeset_search(rows: pd.DataFrame) -> Figure:
    """Draw table 3."""
    note = "means over objectives, calibration data and draws; "
    note += "seconds: each score at the time that it took where it was computed, and the search's own; "
    note += "paid: computed by the cells of this study, as other cells share theirs"
    return table(search_texts(rows), "Table 3: what the searches cost", note)


# Tables drawn as figures for print, with rules, right-aligned numbers and groups of lines.

ROW = 0.155  # inches
SPREAD = "\N{MULTIPLICATION SIGN}\N{DIVISION SIGN}"  # between a geometric mean and its factor
NARROW = 0.85  # inches; narrower columns show a mean without its spread


def table(texts: pd.DataFrame, title: str, note: str) -> Figure:
    """Draw a table. The index of `texts` has a group and a name per row; the group "" has no heading."""
    columns, lines = (
        list(map(str, texts)),
        list[tuple[str, Sequence[str]]](),
    )  # the line of a heading has no values
    for group, own in texts.groupby(level=0, sort=False):
        lines += [(str(group), [])] if group else []
        lines += [(name, list(values)) for (_, name), values in zip(own.index, own.to_numpy(), strict=True)]
    first = 0.15 + 0.06 * max(len(name) for name, _ in lines)
    width = min(1.3, (PAGE - first - 0.05) / len(columns))
    rights = [first + width * (i + 1) for i in range(len(columns))]
    note = style.wrapped(note, 138)
    top = 2.5 + max(heading.count("\n") for heading in columns)
    bottom = top + len(lines) + 1
    figure = Figure(figsize=(PAGE, ROW * (bottom + 1 + note.count("\n"))))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, PAGE), ylim=(bottom + 1 + note.count("\n"), 0))
    axes.set_axis_off()
    axes.text(0.05, 0.7, title, weight="bold", fontsize=style.TITLE + 0.5, color=INK, va="center")
    for right, heading in zip(rights, columns, strict=True):
        axes.text(right, top, heading, ha="right", va="bottom", color=GREY)
    for row, (name, values) in enumerate(lines, start=1):
        if not values:
            axes.hlines(top + row - 0.5, 0.05, rights[-1], color="black", lw=0.3)
        look: dict[str, Any] = {"va": "center", "style": "normal" if values else "italic"}
        axes.text(0.13 if values else 0.05, top + row, name, **look)
        for right, value in zip(rights, values, strict=False):
            mean, _, count = value.partition(" (")
            short = mean.split(" ")[0] + (f" ({count}" if count else "")
            axes.text(right, top + row, short if width < NARROW else value, ha="right", va="center")
    axes.hlines([1.3, top + 0.4, bottom - 0.3], 0.05, rights[-1], color="black", lw=(1.2, 0.7, 1.2))
    axes.text(0.05, bottom + 0.2, note, color=GREY, va="top")
    return figure


def _outcome(study: AskedStudy, kind: str, name: str | None) -> Drawing:
    metric = choose(study.frame, kind, name)
    rows = aggregate(study.frame, metric)
    return Drawing(typeset(rows, metric), rows)


def _search(study: AskedStudy, _: Namespace) -> Drawing:
    rows = search_means(study.frame, study.journals.lines)
    return Drawing(typeset_search(rows), rows)


TABLE1 = StudyFigure(
    "table1_accuracy", "Accuracy of the masks", lambda s, o: _outcome(s, "acc", o.accuracy), metrics=True
)
TABLE2 = StudyFigure(
    "table2_perplexity",
    "Perplexity of the masks",
    lambda s, o: _outcome(s, "ppl", o.perplexity),
    metrics=True,
)
TABLE3 = StudyFigure("table3_search", "What the searches cost", _search)
