"""Table 3: the cost of the searches: scores asked for, seconds and block forwards of a search alone, scores paid.

python -m analysis.table3_search --results results --study small

Source: table 3 of arXiv 2604.24938 (seconds). Means are over calibration data, draws and objectives. Cells share
scores, so the recorded seconds of a cell depend on which cells ran before it. The table therefore shows what the
search costs alone: every score at the seconds that it took in the cell that computed it (see `stats/search_cost.py`).
`paid` counts the scores that the cells of this study computed themselves.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..data.load import done
from ..data.study import AskedStudy
from ..paper import published
from ..stats import search_cost
from ..stats.crossed import Trace
from ..stats.frames import strata_of
from ..stats.grid import STRATUM
from ..stats.removal import size
from .cli import arguments, run
from .style import number, ordered, save
from .table_figure import Line, table

MEASURES = {
    "asked": "scores asked",
    "seconds_alone": "seconds",
    "forwards_alone": "block forwards",
    "paid": "scores paid",
}
ALONE = ("asked", "seconds_alone", "forwards_alone")
GROUP = [*STRATUM, "algo"]


def aggregate(frame: pd.DataFrame, lines: Mapping[str, Trace]) -> pd.DataFrame:
    """One row for each model, k and algorithm: mean cost, number of cells, and the paper's seconds.

    `seconds` and `block_forwards` are as recorded, so they depend on the order in which the cells ran.
    """
    measured = ["asked", "paid", "shared", "seconds", "block_forwards", "block_forwards_alone", "peak_memory"]
    finished = done(frame)
    finished = finished.join(search_cost.alone(finished, lines))
    measured += ["seconds_alone", "forwards_alone"]
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


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    rows = aggregate(frame, study.lines)
    return save(typeset(rows, title), rows, given.out, "table3_search")


def main() -> None:
    """Draw the table for a results folder."""
    run("table3_search", arguments("What the searches cost."), _write)
