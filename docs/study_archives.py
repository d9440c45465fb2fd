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


@cache
def study(
    name: str,
    objectives: tuple[str, ...],
    searches: tuple[str, ...] = (),
    calibration: str | None = None,
    model: str = SMOLLM2,
) -> StudyData:
    """The cells of a model in an archived study that have one of some objectives and searches (any if empty)."""
    chosen = {"objective": objectives, "algo": searches, "calibration": (calibration,) if calibration else ()}
    only = {"model": (model,)} | {column: values for column, values in chosen.items() if values}
    return StudyData(folder(ROOT / f"analysis/{name}/{name}.tar.xz"), name, only)


def ratio(compared: pd.DataFrame, state: str = "pruned", **chosen: str) -> str:
    """One ratio of perplexities with its interval: that of a state and of some columns; a dash if there is none.

    A state is known by its first word.
    """
    rows = compared[compared["state"].str.startswith(state)]
    for column, value in chosen.items():
        rows = rows[rows[column] == value]
    return "".join(_relative(row.value, row.low, row.high) for row in each(rows)) or DASH


def _relative(value: float, low: float, high: float) -> str:
    """A ratio with its interval. Equal masks show no spread, so they have no interval."""
    return "1, the same masks" if value == low == high == 1 else with_interval(value, low, high)


def overlap(own: StudyData, comparison: str = "draws") -> str:
    """The mean corrected overlap of masks that differ only in the draw (or another factor), with its interval."""
    rows = own.overlaps[own.overlaps["comparison"] == comparison]
    return "".join(corrected(row) for row in each(means(rows, ["comparison"])))


def corrected(row: object) -> str:
    """The corrected overlap in a row with its interval. Equal masks show no spread, so they have none."""
    mean, low, high = (getattr(row, name) for name in ("corrected", "low", "high"))
    return f"{mean:.2f}, all equal" if low == high else f"{mean:.2f} ({low:.2f} to {high:.2f})"
