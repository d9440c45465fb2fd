"""What tables 1 and 2 share: an outcome by objective, algorithm, model and k, beside the paper's."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import published
from analysis.figure import number, ordered
from analysis.frames import strata_of
from analysis.load import done
from analysis.metrics import Metric, names
from analysis.stats.grid import STRATUM
from analysis.typeset import Line, spread, table

PAPER = {"acc": "table1_accuracy", "ppl": "table2_perplexity"}
AVERAGED = {"acc": "six tasks", "ppl": "WikiText-2, C4 and LAMBADA"}
GROUP = ["objective", *STRATUM, "algo"]


def aggregate(frame: pd.DataFrame, metric: Metric, paper: str, objective: str) -> pd.DataFrame:
    """One row for each objective, model, k and algorithm that was asked for, finished or not.

    `asked` counts its cells, `cells` the finished ones; `mean` and `sd` (ddof 1) are over those. `paper` is
    the published average, which exists for the objective `objective` only.
    """
    finished = done(frame)
    every = names(frame, metric.kind)
    values = finished.assign(value=metric.of(finished), dense=metric.of(finished, "dense"))
    asked = frame.groupby(GROUP).size().rename("asked")
    by = values.groupby(GROUP)
    found = pd.DataFrame({"cells": by.size(), "mean": by["value"].mean(), "sd": by["value"].std()})
    found = found.assign(dense=by["dense"].mean(), loss=by["loss"].mean())
    found = found.join(by[[f"pruned/{name}" for name in every]].mean()).join(asked, how="outer").reset_index()
    found["cells"] = found["cells"].fillna(0).astype(int)
    table1 = published.pruned(paper)
    found["paper"] = [
        published.value(table1, "average", str(m), int(k), str(a)) if o == objective else np.nan
        for o, m, k, a in found[GROUP].itertuples(index=False)
    ]
    return found


def typeset(found: pd.DataFrame, metric: Metric, title: str, which: int) -> Figure:
    """Rows of objectives and algorithms, a column for each model and k, the paper's column beside."""
    strata = strata_of(found)
    digits = 1 if metric.kind == "acc" else 2
    columns, keys = [], []
    for model, k in strata:
        columns.append((f"{model}", f"k = {int(k)}"))
        keys.append((model, k, "mean"))
        if found.loc[(found["model"] == model) & (found["k"] == k), "paper"].notna().any():
            columns.append((f"{model}", "paper"))
            keys.append((model, k, "paper"))
    lines = [
        Line(
            "nothing removed",
            [_dense(found, metric.kind, m, which_, digits) for m, _, which_ in keys],
            heading=True,
        )
    ]
    for objective in sorted(found["objective"].unique()):
        lines.append(Line(f"pruned for {objective}", [], heading=True))
        rows = found[found["objective"] == objective]
        for algo in ordered(rows["algo"]):
            own = rows[rows["algo"] == algo]
            lines.append(Line(algo, [_value(own, *key, digits) for key in keys]))
    unit = " in percent" if metric.kind == "acc" else ""
    paper = f"paper: its mean over {AVERAGED[metric.kind]}; " if found["paper"].notna().any() else ""
    note = f"table {which}: {metric.label}{unit}, mean ± standard deviation over calibration data and draws; "
    return table(columns, lines, title, note + paper + "(n/m): n of m cells are done", 1.12)


def _dense(found: pd.DataFrame, kind: str, model: str, which: str, digits: int) -> str:
    if which == "paper":
        return f"{published.dense(PAPER[kind], model):.2f}"
    dense = found.loc[found["model"] == model, "dense"].mean()
    return f"{dense:.{digits}f}" if dense == dense else number(dense)


def _value(own: pd.DataFrame, model: str, k: float, which: str, digits: int) -> str:
    row = own[(own["model"] == model) & (own["k"] == k)]
    if row.empty:
        return ""
    one = row.iloc[0]
    if which == "paper":
        return "" if np.isnan(one["paper"]) else f"{one['paper']:.2f}"
    shown = 0 if one["mean"] >= 1000 else digits
    return spread(one["mean"], one["sd"], int(one["cells"]), int(one["asked"]), shown)
