"""Select some cells of a study: `--only objective=perplexity,divergence --only k=3`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

COLUMNS = (
    "model",
    "objective",
    "calibration",
    "samples",
    "length",
    "draw",
    "algo",
    "k",
    "ratio",
    "unit",
    "compensation",
    "seed",
)
Only = Mapping[str, Sequence[str]]


def column(text: str) -> tuple[str, list[str]]:
    """Parse `objective=perplexity,margin` into a column and the values to keep. Used as an argparse type."""
    name, equals, values = text.partition("=")
    kept = [value.strip() for value in values.split(",") if value.strip()]
    if name not in COLUMNS or not equals or not kept:
        known = ", ".join(COLUMNS)
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a filter: give COLUMN=VALUE,VALUE; the columns are {known}"
        )
    return name, kept


def merged(filters: Iterable[tuple[str, Sequence[str]]]) -> dict[str, list[str]]:
    """The filters of a command. Values that are given for one column several times are put together."""
    only: dict[str, list[str]] = {}
    for name, kept in filters:
        only[name] = [*dict.fromkeys([*only.get(name, ()), *kept])]
    return only


def select(frame: pd.DataFrame, only: Only) -> pd.DataFrame:
    """The cells with one of the listed values in each column of `only`.

    An unfinished cell is also kept if its value in a column is unknown.
    Raises ValueError if a listed value occurs in no cell.
    """
    for name, kept in only.items():
        values = frame[name].map(_text)
        if unknown := sorted({*kept} - {*values}):
            known = ", ".join(sorted({*values.dropna()}))
            raise ValueError(f"no cell has {name}={','.join(unknown)}; the values are: {known}")
        unknown_yet = values.isna() & (frame["status"] != "done")
        frame = frame[values.isin(kept) | unknown_yet].reset_index(drop=True)
    return frame


def words(only: Only) -> list[str]:
    """The filters as words for titles: `only objective perplexity, margin`."""
    return [f"only {name} {', '.join(kept)}" for name, kept in only.items()]


def subfolder(only: Only) -> str:
    """A subfolder for the figures of selected cells, so that those of all cells stay; empty without a filter."""
    return "__".join(f"{name}={','.join(kept)}" for name, kept in only.items())


def _text(value: object) -> str | None:
    """A value as a user writes it: 3 and not 3.0. None if the value is missing."""
    return None if pd.isna(value) else str(value).removesuffix(".0")  # type: ignore[call-overload]
