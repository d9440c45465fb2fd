"""Columns, rows and values of the report's tables, and the sort key of each value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from markupsafe import Markup

from ..figures.style import DASH, number

LAST = "~"  # a sort key after those of all numbers and names


@dataclass(frozen=True)
class Value:
    """A cell of a table: its text, its sort key, and the id it links to."""

    text: str | Markup
    key: str
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table. If it is empty, `reason` says why.

    A heading is a text and a flag. The flag is true for a column of numbers.
    """

    name: str
    caption: str
    headings: Sequence[tuple[str, bool]] = ()
    rows: Sequence[Sequence[Value]] = ()
    reason: str = ""


# A heading, whether the column has numbers, and a function that returns the column's value in a row.
Column: TypeAlias = tuple[str, bool, Callable[[Any], Value]]
Built: TypeAlias = tuple[list[tuple[str, bool]], list[list[Value]]]  # headings and rows


def built(frame: pd.DataFrame, columns: Sequence[Column]) -> Built:
    """The headings and rows of a table: one row for each row of the frame."""
    rows = [[value(row) for _, _, value in columns] for row in frame.itertuples(index=False)]
    return [(heading, numbers) for heading, numbers, _ in columns], rows


def of(column: str, form: str | None) -> Callable[[Any], Value]:
    """Return a function that reads a column's value from a row. Without `form`, numbers have about three digits."""

    def value(row: Any) -> Value:
        content = getattr(row, column)
        return word(content) if isinstance(content, str) or content is None else numeric(content, form)

    return value


def word(value: Any) -> Value:
    """A name as a value. If the name is missing, the text is empty."""
    known = isinstance(value, str) and value
    return Value(str(value), str(value)) if known else Value("", LAST)


def numeric(value: Any, form: str | None) -> Value:
    """A number as a value. If the number is missing, the text is a dash."""
    parsed = float(value) if value is not None else np.nan
    if np.isnan(parsed):
        return Value(DASH, LAST)
    if np.isinf(parsed):
        return Value("∞", sorted_by(parsed))
    return Value(number(parsed) if form is None else form.format(parsed), sorted_by(parsed))


def sorted_by(value: float) -> str:
    """The sort key of a number."""
    return LAST if np.isnan(value) else repr(float(value))
