"""Table 3: what the searches cost: seconds, scores asked for and paid, block forwards.

python -m analysis.table3_search --results results --study small

Source: table 3 of arXiv 2604.24938 (seconds). Means over calibration data, draws and objectives. Seconds are
those that a cell spent itself: scores that another cell had paid for cost it nothing, so scores asked for are
what compares algorithms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import published
from analysis.command import arguments, asked
from analysis.figure import number, ordered, save
from analysis.frames import strata_of
from analysis.load import done
from analysis.stats.grid import STRATUM
from analysis.typeset import Line, table

MEASURES = {"asked": "scores asked", "paid": "paid", "seconds": "seconds", "block_forwards": "block forwards"}
GROUP = [*STRATUM, "algo"]


def aggregate(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each model, k and algorithm: mean cost, number of cells, and the paper's seconds."""
    measured = ["asked", "paid", "shared", "seconds", "block_forwards", "block_forwards_alone", "peak_memory"]
    finished = done(frame)
    by = finished.astype(dict.fromkeys(measured, float)).groupby(GROUP)
    found = by[measured].mean().assign(cells=by.size())
    found = found.join(frame.groupby(GROUP).size().rename("asked_cells"), how="outer").reset_index()
    paper = published.read("table3_search_seconds")
    found["paper_seconds"] = [
        published.value(paper, "seconds", str(m), int(k), str(a))
        for m, k, a in found[GROUP].itertuples(index=False)
    ]
    return found


def typeset(found: pd.DataFrame, title: str) -> Figure:
    """Rows of models, k and algorithms; a column a measure."""
    paper = bool(found["paper_seconds"].notna().any())
    columns = [("mean cost of a search", word) for word in MEASURES.values()]
    columns += [("", "cells"), *([("paper", "seconds")] if paper else [])]
    lines = []
    for model, k in strata_of(found):
        lines.append(Line(f"{model}, k = {int(k)}", [], heading=True))
        rows = found[(found["model"] == model) & (found["k"] == k)].set_index("algo")
        for algo in ordered(rows.index):
            row: Any = rows.loc[algo]
            cells = 0 if np.isnan(row["cells"]) else int(row["cells"])
            values = [number(row[name]) for name in MEASURES]
            values.append(f"{cells}/{int(row['asked_cells'])}")
            lines.append(Line(algo, [*values, *([_paper(row["paper_seconds"])] if paper else [])]))
    note = "table 3: means over objectives, calibration data and draws; paid: computed by the cell itself; "
    return table(columns, lines, title, note + "a block forward is one block over all samples", 1.0)


def _paper(seconds: float) -> str:
    return "" if np.isnan(seconds) else number(seconds)


def main() -> None:
    """Draw the table for a results folder."""
    given = arguments("What the searches cost.")
    frame, title = asked(given)
    found = aggregate(frame)
    save(typeset(found, title), found, given.out, "table3_search")


if __name__ == "__main__":
    main()
