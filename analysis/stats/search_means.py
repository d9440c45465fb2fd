"""Mean outcomes of the searches of one panel, over the same calibration draws."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from .frames import groups
from .grid import DRAW, SETTING, labels

REFERENCE = "exhaustive"


def rivals(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of all searches except the exhaustive search, which is the reference.

    If only the exhaustive search was run, all cells are returned.

    The exhaustive search gives the best mask (`regret.best_known`). This search is run in few settings only. If
    it were compared with the others, all means would be restricted to those settings.
    """
    competing = cells[cells["algo"] != REFERENCE]
    return competing if len(competing) else cells


def compared(panel: pd.DataFrame, outcomes: Sequence[str] = ()) -> tuple[pd.DataFrame, str]:
    """The cells of settings that every search of the panel finished, and a note if some settings are omitted.

    Means over different draws are not comparable, so a cell that is missing or lacks one of the `outcomes` removes
    its whole setting from the means. An outcome that a search has in no cell does not count for this search. If no
    setting is complete, all cells are used, and the note says that the means are over different draws.
    """
    panel = rivals(panel)
    setting = labels(panel, SETTING)
    searches, total = panel["algo"].nunique(), len(set(setting))
    having = pd.Series(True, panel.index)
    for outcome in outcomes:
        known = panel[outcome].notna()
        having &= known | ~known.groupby(panel["algo"]).transform("any")
    counted = panel["algo"].where(having).groupby(setting).transform("nunique")
    whole = panel[having & (counted == searches)]
    if whole.empty:
        return panel, "unequal draws"
    kept = int(pd.Series(setting, index=panel.index)[whole.index].nunique())
    return whole, "" if kept == total else f"{kept} of {total} draws"


def means(panel: pd.DataFrame, outcomes: list[str]) -> pd.DataFrame:
    """One row for each search: its cells and draws, means of the outcomes, and the found `masks`, sorted by draw."""
    cells, note = compared(panel, outcomes)
    rows = []
    for algo, searched in groups(cells, "algo"):
        order = searched.sort_values(["calibration", "draw"])
        masks = tuple(zip(order["calibration"], order["draw"], order["dropped"], strict=True))
        draws = len(set(labels(searched, DRAW)))
        rows.append(
            [algo, len(searched), draws, *(searched[outcome].mean() for outcome in outcomes), masks, note]
        )
    return pd.DataFrame(rows, columns=["algo", "cells", "draws", *outcomes, "masks", "draws_note"])
