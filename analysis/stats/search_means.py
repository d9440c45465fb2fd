"""The searches of one panel side by side: their mean outcomes over the same calibration draws."""

from __future__ import annotations

import pandas as pd

from .frames import groups
from .grid import SETTING, labels

REFERENCE = "exhaustive"


def rivals(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of searches that compete. The exhaustive one, run where it can be had, is what they are held against.

    It tells the best mask (`crossed.best_known`). Among the others it would take out of every mean the settings that
    it was not run on.
    """
    found = cells[cells["algo"] != REFERENCE]
    return found if len(found) else cells


def compared(panel: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The cells of settings that every search of the panel finished, and a note where that is not all.

    A mean over fewer draws is not comparable, so a missing cell takes its whole setting out of the means. If
    no setting is complete, all cells are used, and the note says that the means are over different draws.
    """
    panel = rivals(panel)
    setting = labels(panel, SETTING)
    searches = panel["algo"].nunique()
    counted = panel.groupby(setting)["algo"].transform("nunique")
    whole = panel[counted == searches]
    total = len(set(setting))
    if whole.empty:
        return panel, "unequal draws"
    kept = int(pd.Series(setting, index=panel.index)[whole.index].nunique())
    return whole, "" if kept == total else f"{kept} of {total} draws"


def means(panel: pd.DataFrame, outcomes: list[str]) -> pd.DataFrame:
    """One row for each search: number of cells, means of the outcomes, and `masks`, equal for equal searches."""
    cells, note = compared(panel)
    rows = []
    for algo, own in groups(cells, "algo"):
        order = own.sort_values(["calibration", "draw"])
        masks = tuple(zip(order["calibration"], order["draw"], order["dropped"], strict=True))
        rows.append([algo, len(own), *(own[outcome].mean() for outcome in outcomes), masks, note])
    return pd.DataFrame(rows, columns=["algo", "cells", *outcomes, "masks", "draws_note"])
