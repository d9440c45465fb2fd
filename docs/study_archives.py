"""The cells of the archived studies, and how docs/results.md and docs/study_tables.md write numbers and tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from analysis.data.mlflow_store import folder
from analysis.figures.style import number
from analysis.report.study_data import StudyData
from analysis.stats import overlap_pairs
from analysis.stats.window_pairs import Losses, paired

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
    only = {"objective": objectives, "model": (model,)} | ({"algo": searches} if searches else {})
    only |= {"calibration": (calibration,)} if calibration else {}
    return StudyData(folder(ROOT / f"analysis/{name}/{name}.tar.xz"), name, only)


def log_perplexity(own: StudyData) -> pd.DataFrame:
    """The logarithm of held-out perplexity, one row for each draw and one column for each search."""
    cells = own.cells.assign(log=np.log(own.metrics["ppl"].of(own.cells).astype(float)))
    return cells.pivot(index="draw", columns="algo", values="log")


def factor(first: ArrayLike, second: ArrayLike) -> str:
    """The ratio of two perplexities with its interval, from their logarithms (draws,), paired by draw."""
    found = paired(np.asarray(first, float), np.asarray(second, float))
    return as_ratio(found.mean, found.low, found.high)


def factor_of_other_draws(first: Losses, second: Losses) -> str:
    """As `factor`, for logarithms of perplexities that have no draws in common (Welch)."""
    ends = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    return as_ratio(float(first.mean() - second.mean()), float(ends.low), float(ends.high))


def as_ratio(*logs: float) -> str:
    """A ratio with its interval, from the logarithms of the value and of both ends."""
    value, low, high = (number(float(np.exp(log))) for log in logs)
    return f"{value} ({low} to {high})"


def overlap(own: StudyData, comparison: str = "draws") -> str:
    """The mean corrected overlap of masks that differ only in the draw (or another factor), with its interval."""
    mean = overlap_pairs.mean(overlap_pairs.pairs(own.cells, comparison))
    return f"{mean.mean:.2f} ({mean.low:.2f} to {mean.high:.2f})"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows))
