"""The common code of tables 1 and 2: an outcome and the paper's value, by objective, algorithm, model and k."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..data.load import done
from ..data.metrics import Metric, names
from ..paper import published
from ..stats.frames import strata_of
from ..stats.grid import STRATUM
from ..stats.removal import bare, size
from .style import number, ordered
from .table_figure import TIMES, Line, spread, table, times

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
    table1 = published.pruned(paper)
    rows["paper"] = [
        published.value(table1, "average", str(m), int(k), str(a)) if o == objective else np.nan
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
        return f"{published.dense(PAPER[kind], model):.2f}"
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
