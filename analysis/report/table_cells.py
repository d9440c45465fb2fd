"""Columns, rows and values of the report's tables, and what each value sorts by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from markupsafe import Markup

from ..figures.style import DASH, number

LAST = "~"  # sorts behind every number and name


@dataclass(frozen=True)
class Value:
    """A cell of a table: its text, what it sorts by, and where it leads to."""

    text: str | Markup
    key: str
    link: str = ""


@dataclass(frozen=True)
class Table:
    """Headings with whether they hold numbers, and rows; `reason` says why there is nothing."""

    name: str
    caption: str
    headings: Sequence[tuple[str, bool]] = ()
    rows: Sequence[Sequence[Value]] = ()
    reason: str = ""


# Heading, whether it holds numbers, value of a row.
Column: TypeAlias = tuple[str, bool, Callable[[Any], Value]]
Built: TypeAlias = tuple[list[tuple[str, bool]], list[list[Value]]]  # headings and rows


def built(found: pd.DataFrame, columns: Sequence[Column]) -> Built:
    """Headings and rows of a frame."""
    rows = [[value(row) for _, _, value in columns] for row in found.itertuples(index=False)]
    return [(heading, numbers) for heading, numbers, _ in columns], rows


def of(column: str, form: str | None) -> Callable[[Any], Value]:
    """The value of a row of a frame; numbers in a form, or (None) with about three digits."""

    def value(row: Any) -> Value:
        found = getattr(row, column)
        return word(found) if isinstance(found, str) or found is None else numeric(found, form)

    return value


def word(value: Any) -> Value:
    """A name, or nothing."""
    known = isinstance(value, str) and value
    return Value(str(value), str(value)) if known else Value("", LAST)


def numeric(value: Any, form: str | None) -> Value:
    """A number, or a dash."""
    found = float(value) if value is not None else np.nan
    if np.isnan(found):
        return Value(DASH, LAST)
    if np.isinf(found):
        return Value("∞", sorted_by(found))
    return Value(number(found) if form is None else form.format(found), sorted_by(found))


def sorted_by(value: float) -> str:
    """What a number sorts by."""
    return LAST if np.isnan(value) else repr(float(value))
