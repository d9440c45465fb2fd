"""The bands of figure 1: their labels, the searches that each stands for, and how many draws it shows, in words."""

from __future__ import annotations

import pandas as pd

from ..data.load import done
from ..stats.grid import DRAW, SETTING, labels
from .style import ordered

MERGED = 3  # the fewest searches that share a band


def bands(cells: pd.DataFrame) -> dict[str, list[str]]:
    """The searches of a panel by the label of their band, in order.

    If all searches found the same masks in the same cells, they share one band: `all 7 searches`. A search that is
    not finished has `5 of 6` after its name.
    """
    searches = ordered(cells["algo"])
    if len(searches) >= MERGED and (cells["status"] == "done").all() and _equal(cells):
        return {f"all {len(searches)} searches": searches}
    return {_label(cells[cells["algo"] == algo], algo): [algo] for algo in searches}


def _equal(cells: pd.DataFrame) -> bool:
    """Whether every search found the same masks in the same cells."""
    setting = labels(cells, [*SETTING, "seed"])
    found = cells.assign(setting=setting).sort_values(["setting"], kind="stable")
    return (
        len({tuple(zip(part["setting"], part["dropped"], strict=True)) for _, part in found.groupby("algo")})
        == 1
    )


def _label(cells: pd.DataFrame, algo: str) -> str:
    finished = int((cells["status"] == "done").sum())
    return algo if finished == len(cells) else f"{algo} ({finished} of {len(cells)})"


def most_cells(cells: pd.DataFrame) -> int:
    """The largest number of cells that a search has in one panel."""
    return int(cells.groupby(["model", "objective", "k", "algo"]).size().max())


def counted(cells: pd.DataFrame) -> str:
    """How many draws a search of a panel has: `6 draws`, or `12 cells of 6 draws` if it has more cells than draws."""
    finished = done(cells)
    most = most_cells(cells)
    draws = (
        max(len(set(labels(part, DRAW))) for _, part in finished.groupby("algo")) if len(finished) else most
    )
    complete = (finished.groupby("algo").size() == most).any() if len(finished) else False
    return of_draws(most if complete else draws, draws)


def of_draws(cells: int, draws: int) -> str:
    """How many draws cells have: `6 draws`, or `12 cells of 6 draws` if there are more cells than draws."""
    return f"{cells} cells of " * (cells > draws) + f"{draws} draw{'s' * (draws != 1)}"
