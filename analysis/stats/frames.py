"""Rows and groups of frames, typed as what they hold here: plain values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd


def each(frame: pd.DataFrame) -> Iterator[Any]:
    """Each row, its columns as attributes."""
    return iter(frame.itertuples(index=False))


def groups(frame: pd.DataFrame, by: str | Sequence[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Each value of some columns with its rows; missing values make groups too."""
    return iter(frame.groupby(by if isinstance(by, str) else list(by), dropna=False))


def at(frame: pd.DataFrame, row: Any, column: str) -> float:
    """One number."""
    found: Any = frame.at[row, column]
    return float(found)


def strata_of(frame: pd.DataFrame) -> list[tuple[str, int]]:
    """The models and numbers of removed blocks of a frame, in order."""
    found = frame[["model", "k"]].dropna().drop_duplicates()
    return sorted((str(model), int(k)) for model, k in zip(found["model"], found["k"], strict=True))
