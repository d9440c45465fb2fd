"""Read rows, groups and values of data frames as plain Python values, for the type checker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd


def each(frame: pd.DataFrame) -> Iterator[Any]:
    """Each row, with its columns as attributes."""
    return iter(frame.itertuples(index=False))


def groups(
    frame: pd.DataFrame, by: str | Sequence[str], sort: bool = True
) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Each combination of values in the columns `by`, with its rows. Missing values form groups too.

    Combinations are sorted, or in the order in which they appear.
    """
    return iter(frame.groupby(by if isinstance(by, str) else list(by), dropna=False, sort=sort))


def at(frame: pd.DataFrame, row: Any, column: str) -> float:
    """One number of a frame."""
    value: Any = frame.at[row, column]
    return float(value)


def strata_of(frame: pd.DataFrame) -> list[tuple[str, int]]:
    """The distinct pairs (model, number of removed blocks) in a frame, sorted."""
    strata = frame[["model", "k"]].dropna().drop_duplicates()
    return sorted((str(model), int(k)) for model, k in zip(strata["model"], strata["k"], strict=True))
