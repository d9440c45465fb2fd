"""What a cell removes, in words, and as masks and sets of units.

Blocks and sub-layers are not comparable, nor are k units and a share of the parameters, nor a mask with and without
repair. So the `model` of the frame also names what is removed and what stands in for it, unless k whole blocks are
removed without compensation. Strata, comparisons, rankings and titles use this label.
"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from pruning.core.mask import Mask
from pruning.core.search_record import BudgetRecord
from pruning.runs.removal import KINDS

UNKNOWN = "unknown unit"  # of an unfinished cell, in a study with several units
WORDS = {
    "block": "block",
    "sublayer": "sub-layer",
    "attention": "attention sub-layer",
    "mlp": "MLP sub-layer",
}
NO_COMPENSATION = "none"
UNKNOWN_COMPENSATION = "unknown compensation"  # of an unfinished cell, in a study with several compensations
COMPENSATIONS = ("magnitude", "linear", "diagonal", UNKNOWN_COMPENSATION)
COUNTED, LATENCY = "counted", "latency"
_SHARE = {"sublayer", "attention", "mlp", LATENCY}  # with one of these in its label, a size is a share
_PART = re.compile(
    rf"{UNKNOWN}|sublayer|attention|mlp|{COUNTED}|{LATENCY}|"
    rf"{'|'.join(COMPENSATIONS)}|[\d.]+ %|costs \d+"
)


def label(model: str, unit: str, cost: str | None, more: tuple[str, ...] = ()) -> str:
    """The model and what is removed from it. `cost` is what a ratio is a share of; None if units are counted."""
    parts = [unit] if unit != "block" else []
    if unit not in ("block", UNKNOWN) and cost is None:
        parts.append(COUNTED)
    parts += [cost] if cost == LATENCY else []
    return f"{model} ({', '.join([*parts, *more])})" if parts or more else model


def bare(model: str) -> str:
    """The model of a label, without what is removed from it."""
    return model.rpartition(" (")[0] if _parts(model) else model


def uncompensated(model: str) -> str:
    """A label without the compensation: the model of the same masks before their repair."""
    name, parts = bare(model), [part for part in _parts(model) if part not in COMPENSATIONS]
    return f"{name} ({', '.join(parts)})" if parts else name


def _parts(model: str) -> list[str]:
    """What a label says in parentheses; nothing if a model's own name ends in parentheses."""
    name, _, rest = model.rpartition(" (")
    parts = rest.removesuffix(")").split(", ")
    return parts if name and rest.endswith(")") and all(map(_PART.fullmatch, parts)) else []


def size(model: str, k: float) -> str:
    """The size of a stratum: `k = 3`, or `≈ 3 blocks` if the removed share is that of 3 blocks."""
    parts = _parts(model)
    if COUNTED in parts or not _SHARE & {*parts}:
        return f"k = {int(k)}"
    return f"≈ {int(k)} block{'' if int(k) == 1 else 's'}"


def heading(model: str, k: float) -> str:
    """The heading of a narrow panel: model and size; below them, what else the label says."""
    name = bare(model)
    more = model.removeprefix(name).strip()
    return f"{name} · {size(model, k)}" + (f"\n{more}" if more else "")


def removed(row: pd.Series[Any]) -> str:
    """What a cell of this stratum removes: `3 blocks removed`, or `10 % of the parameters removed`."""
    unit, cost, k = _value(row, "unit", "block"), _value(row, "cost", None), row["k"]
    if cost is None:
        if pd.isna(k):
            return ""
        return f"{int(k):,} {WORDS.get(unit, 'unit')}{'' if k == 1 else 's'} removed{_compensated(row)}"
    only = {"attention": ", only attention", "mlp": ", only MLPs"}.get(unit, "")
    return f"{100 * row['ratio']:g} % of the {cost} removed{only}{_compensated(row)}"


def _compensated(row: pd.Series[Any]) -> str:
    return compensated(_value(row, "compensation", NO_COMPENSATION))


def compensated(found: str) -> str:
    """What follows a mask in words: `, compensation=linear`, or nothing."""
    if found in (NO_COMPENSATION, UNKNOWN_COMPENSATION):
        return "" if found == NO_COMPENSATION else f", {found}"
    return f", compensation={found}"


def removed_of(row: pd.Series[Any]) -> str:
    """What a finished cell removes, and of how many: `3 of 30 blocks removed`. For a budget, as `removed`."""
    unit = _value(row, "unit", "block")
    if _value(row, "cost", None) is not None:
        return removed(row)
    among = int(row["n_blocks"]) * (len(KINDS[unit]) or 1)
    return f"{int(row['k'])} of {among} {WORDS[unit]}s removed{_compensated(row)}"


def noun(frame: pd.DataFrame) -> str:
    """What the masks of finished cells are over: `blocks`, `sub-layers`, or `units` if it is both."""
    units = {KINDS.get(unit, "") == "" for unit in column(frame, "unit", "block")}
    return "units" if len(units) > 1 else "blocks" if units == {True} else "sub-layers"


def mask_of(row: pd.Series[Any]) -> Mask:
    """The mask of a finished cell."""
    return _mask(row["n_blocks"], row["dropped"], _value(row, "unit", "block"))


def masks(frame: pd.DataFrame) -> list[Mask]:
    """The masks of finished cells."""
    rows = zip(frame["n_blocks"], frame["dropped"], column(frame, "unit", "block"), strict=True)
    return [_mask(*row) for row in rows]


def _mask(n_blocks: float, dropped: tuple[int, ...], unit: str) -> Mask:
    return Mask(int(n_blocks), dropped, "sublayer" if KINDS[unit] else "block")


def n_open(frame: pd.DataFrame) -> pd.Series[int]:
    """The number of units that each finished cell could remove."""
    protected = frame[["protect_first", "protect_last"]].fillna(0).sum(axis=1)
    each = [len(KINDS[unit]) or 1 for unit in column(frame, "unit", "block")]
    return ((frame["n_blocks"] - protected) * each).astype(int)


def free(n_blocks: int, unit: str, first: int, last: int) -> list[int]:
    """The units that a cell could remove, by number; nothing of its `first` and `last` blocks."""
    blocks = range(first, n_blocks - last)
    if not KINDS[unit]:
        return list(blocks)
    return [2 * block + "am".index(kind) for block in blocks for kind in KINDS[unit]]


def budgets(frame: pd.DataFrame) -> list[BudgetRecord | None]:
    """The budget of each cell; None if units are counted."""
    return column(frame, "budget", None)


def column(frame: pd.DataFrame, name: str, default: Any) -> list[Any]:
    """The values of a column; `default` for a missing value, and for each row of a frame without this column."""
    if name not in frame:
        return [default] * len(frame)
    return [value if isinstance(value, str | dict) else default for value in frame[name]]


def _value(row: pd.Series[Any], name: str, default: Any) -> Any:
    value = row.get(name)
    return value if isinstance(value, str) else default
