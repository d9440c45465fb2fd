"""The cells of the archived studies, and how docs/results.md and docs/study_tables.md write numbers and tables."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from analysis.data.mlflow_store import folder
from analysis.figures.mask_overlaps import means
from analysis.figures.style import DASH
from analysis.report.phrasing import with_interval
from analysis.report.study_data import StudyData
from analysis.stats.frames import each

ROOT = Path(__file__).parents[1]
TEXT = ("divergence", "perplexity")
MAIN = (*TEXT, "margin")
ALL = ("block_influence", *MAIN)
SMOLLM2, GEMMA = "smollm2", "gemma3_270m"
SEARCHES = {
    SMOLLM2: (),
    GEMMA: ("one_shot", "greedy", "beam"),
}  # in `study`; () is all, others are unfinished


@cache
def study(
    name: str,
    objectives: tuple[str, ...],
    searches: tuple[str, ...] = (),
    calibration: str | None = None,
    model: str = SMOLLM2,
) -> StudyData:
    """The cells of a model in an archived study that have one of some objectives and searches (any if empty)."""
    only = {"objective": objectives, "model": (model,)} | ({"algo": searches} if searches else {})
    only |= {"calibration": (calibration,)} if calibration else {}
    return StudyData(folder(ROOT / f"analysis/{name}/{name}.tar.xz"), name, only)


def ratio(compared: pd.DataFrame, state: str = "pruned", **chosen: str) -> str:
    """One ratio of perplexities with its interval: that of a state and of some columns; a dash if there is none.

    A state is known by its first word.
    """
    rows = compared[compared["state"].str.startswith(state)]
    for column, value in chosen.items():
        rows = rows[rows[column] == value]
    return "".join(with_interval(row.value, row.low, row.high) for row in each(rows)) or DASH


def overlap(own: StudyData, comparison: str = "draws") -> str:
    """The mean corrected overlap of masks that differ only in the draw (or another factor), with its interval."""
    rows = own.overlaps[own.overlaps["comparison"] == comparison]
    return "".join(corrected(row) for row in each(means(rows, ["comparison"])))


def corrected(row: object) -> str:
    """The corrected overlap in a row with its interval."""
    mean, low, high = (getattr(row, name) for name in ("corrected", "low", "high"))
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
