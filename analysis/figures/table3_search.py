"""Table 3: the cost of the searches in seconds, scores asked for, scores paid, and block forwards.

python -m analysis.table3_search --results results --study small

Source: table 3 of arXiv 2604.24938 (seconds). Means are over calibration data, draws and objectives. A paid score
is one that the cell computed itself. Seconds do not include the time for scores that another cell computed. So
compare algorithms by the scores asked for.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..data.load import done
from ..data.study import AskedStudy
from ..paper import published
from ..stats.frames import strata_of
from ..stats.grid import STRATUM
from ..stats.removal import size
from .cli import arguments, run
from .style import number, ordered, save
from .table_figure import Line, table

MEASURES = {"asked": "scores asked", "paid": "paid", "seconds": "seconds", "block_forwards": "block forwards"}
GROUP = [*STRATUM, "algo"]


def aggregate(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each model, k and algorithm: mean cost, number of cells, and the paper's seconds."""
    measured = ["asked", "paid", "shared", "seconds", "block_forwards", "block_forwards_alone", "peak_memory"]
    finished = done(frame)
    by = finished.astype(dict.fromkeys(measured, float)).groupby(GROUP)
    rows = by[measured].mean().assign(cells=by.size())
    rows = rows.join(frame.groupby(GROUP).size().rename("asked_cells"), how="outer").reset_index()
    paper = published.read("table3_search_seconds")
    rows["paper_seconds"] = [
        published.value(paper, "seconds", str(m), int(k), str(a))
        for m, k, a in rows[GROUP].itertuples(index=False)
    ]
    return rows


def typeset(rows: pd.DataFrame, title: str) -> Figure:
    """One row per model, k and algorithm; one column per measure."""
    paper = bool(rows["paper_seconds"].notna().any())
    columns = [("mean cost of a search", word) for word in MEASURES.values()]
    columns += [("", "cells"), *([("paper", "seconds")] if paper else [])]
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
    note = "table 3: means over objectives, calibration data and draws; paid: computed by the cell itself; "
    return table(columns, lines, title, note + "a block forward is one block over all samples", 1.0)


def _paper(seconds: float) -> str:
    return "" if np.isnan(seconds) else number(seconds)


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    rows = aggregate(frame)
    return save(typeset(rows, title), rows, given.out, "table3_search")


def main() -> None:
    """Draw the table for a results folder."""
    run("table3_search", arguments("What the searches cost."), _write)
