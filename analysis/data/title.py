"""The title line of every figure."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pandas as pd

from ..stats.removal import NO_COMPENSATION, bare, column
from .cell_filter import Only, words
from .same_data import OTHER

LISTED = 12  # more values than these are not listed


def describe(frame: pd.DataFrame, study: str | None, only: Only = MappingProxyType({})) -> str:
    """The title line of every figure: study, models, seeds, commits, and how many cells are missing or failed."""
    finished = frame[frame["status"] == "done"]
    named: dict[str, pd.Series[Any]] = {
        "model": finished["model"].map(bare),
        "unit": pd.Series(column(finished, "unit", "block")),
        "compensation": pd.Series(column(finished, "compensation", NO_COMPENSATION)),
        "seed": finished["seed"],
        "commit": finished["commit"].fillna("unknown"),
    }
    told = {name: values for name, values in named.items() if name not in only}
    usual = {"unit": {"block"}, "compensation": {NO_COMPENSATION}}
    listed = [_listed(name, values) for name, values in told.items() if set(values) != usual.get(name)]
    parts = [f"study {study or 'all'}", *words(only), *listed]
    if lacking := len(frame) - len(finished):
        names = "missing, failed or damaged" if (frame["status"] == "damaged").any() else "missing or failed"
        parts.append(f"{lacking} of {len(frame)} cells {names}")
    if others := sum(text != "" for text in column(finished, OTHER, "")):
        parts.append(f"{others} of {len(finished)} cells measured on other held-out data, which is left out")
    return " · ".join(parts)


def _listed(name: str, values: pd.Series[Any]) -> str:
    distinct = sorted({str(value).removesuffix(".0") for value in values})
    if len(distinct) > LISTED:
        numbers = [int(value) for value in distinct if value.lstrip("-").isdigit()]
        if len(numbers) == len(distinct):
            return f"{len(distinct)} {name}s between {min(numbers)} and {max(numbers)}"
        return f"{len(distinct)} {name}s: {', '.join(distinct[:3])}, \N{HORIZONTAL ELLIPSIS}"
    return f"{name}{'s' if len(distinct) > 1 else ''} {', '.join(distinct)}"
