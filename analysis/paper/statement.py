"""What the tables of v1 say of a statement, and how numbers of their cells are listed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from ..stats.frames import groups
from ..stats.rules import LEVEL

CELL = ["model", "k"]
OURS = f"our level is {LEVEL}"
AGREES, DISAGREES, OPEN = "the tables agree", "the tables do not agree", "inconclusive"


@dataclass(frozen=True)
class Statement:
    """A statement, the verdict of the tables (AGREES, DISAGREES or OPEN), and the numbers that decide it."""

    claim: str
    verdict: str
    facts: tuple[str, ...]


def literal(holds: bool) -> str:
    """The verdict on a statement that the tables decide by counting."""
    return AGREES if holds else DISAGREES


def of(decided: bool | None) -> str:
    """The verdict of a rule in `stats.rules`."""
    return OPEN if decided is None else literal(decided)


def cells(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each model and k of a published table, such as `llama3 M7`, and its rows by search."""
    for (model, k), cell in groups(table, CELL):
        yield f"{model} M{k}", cell.set_index("algo")


def listed(values: Sequence[tuple[str, float]], digits: int = 2) -> str:
    """Names with their values."""
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values)
