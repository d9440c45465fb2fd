"""Which cells the page shows in full. The table has every cell, but a browser bears only so many whole entries."""

from __future__ import annotations

import pandas as pd

from ..stats.grid import CONFIGURATION, STRATUM

MOST = 1000  # entries of a page: about 10 MB


def shown(frame: pd.DataFrame) -> frozenset[str]:
    """The names of at most MOST cells: first those that are not finished, then the first draws of every search."""
    number = frame.groupby([*STRATUM, *CONFIGURATION, "algo"], dropna=False).cumcount()
    order = frame.assign(finished=frame["status"] == "done", number=number)
    chosen = order.sort_values(["finished", "number"], kind="stable").head(MOST)
    return frozenset(map(str, chosen["cell"]))


def left_out(frame: pd.DataFrame) -> str:
    """What the page leaves out; empty if it shows every cell in full."""
    if len(frame) <= MOST:
        return ""
    return (
        f"Below, {MOST:,} of the {len(frame):,} cells are shown in full: first those that are not finished, then the "
        "first draws of every search. For a page of fewer cells, which shows all of them, add --only to the command, "
        "as in --only seed=0,1."
    )
