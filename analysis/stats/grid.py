"""The columns that define a stratum, a configuration, a draw and a cell, and texts on what a cell removes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pruning.core.mask import KINDS, BudgetRecord, Mask

Labels = NDArray[np.int64]

STRATUM = ["model", "k"]  # comparisons are within one model and one number of removed blocks
CONFIGURATION = [
    "objective",
    "calibration",
    "samples",
    "length",
]  # a calibration without the draw of its samples
DRAW = [
    "calibration",
    "samples",
    "length",
    "draw",
]  # identifies the samples, which several objectives can share
SETTING = [*CONFIGURATION, "draw"]  # a calibration with the draw of its samples; the search is not included
CELL = [*STRATUM, *SETTING, "algo"]

# For each comparison, the column in which its two masks differ. All other columns of CELL are equal. So
# objectives are compared on the same samples only. Otherwise, masks would also differ because of the samples.
COMPARISONS = {"algorithms": "algo", "draws": "draw", "objectives": "objective"}


def several_sizes(frame: pd.DataFrame) -> bool:
    """Whether draws of different sizes were taken from the same data. If so, the larger draws contain the smaller."""
    sizes = frame[["calibration", "samples", "length"]].drop_duplicates()
    return bool(sizes["calibration"].duplicated().any())


def labels(frame: pd.DataFrame, columns: Sequence[str]) -> Labels:
    """Integers (n,). Rows have the same integer if their values in `columns` are equal.

    Two missing values, such as the lengths of two sets of items, count as equal.
    """
    if not columns:
        return np.zeros(len(frame), dtype=np.int64)
    combined = np.zeros(len(frame), dtype=np.int64)
    for column in columns:
        codes, levels = pd.factorize(frame[column].to_numpy(), sort=True, use_na_sentinel=False)
        combined = np.unique(combined * len(levels) + codes, return_inverse=True)[1]
    return combined.astype(np.int64)


def indicator(groups: Labels) -> NDArray[np.float64]:
    """A matrix (n, levels) with a column of ones and zeros for each level."""
    levels, inverse = np.unique(groups, return_inverse=True)
    return np.eye(len(levels))[inverse]


def strata_of(frame: pd.DataFrame) -> list[tuple[str, int]]:
    """The distinct pairs (model, number of removed blocks) in a frame, sorted."""
    strata = frame[["model", "k"]].dropna().drop_duplicates()
    return sorted((str(model), int(k)) for model, k in zip(strata["model"], strata["k"], strict=True))


DIFFERENT = "over different searches"


def compared(stratum: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The cells of one model and k over which objectives are compared, and a note if cells are left out.

    An objective must not differ from others only because it has a search that they lack. So only the searches that
    every objective has are kept, in settings that have all these searches. If an objective has no such
    setting, all its cells of these searches are kept. If the objectives have no search in common, all cells
    are returned, and the note is `DIFFERENT`.
    """
    objectives = stratum["objective"].nunique()
    having = stratum.groupby("algo")["objective"].nunique()
    common = sorted(map(str, having.index[having == objectives]))
    if objectives < 2:
        return stratum, ""
    if not common:
        return stratum, DIFFERENT
    cells = stratum[stratum["algo"].isin(common)]
    setting = pd.Series(labels(cells, SETTING), cells.index)
    complete = cells.groupby(setting)["algo"].transform("nunique") == len(common)
    whole = complete | ~complete.groupby(cells["objective"]).transform("any")
    note = ""
    if len(common) < len(having):
        left = sorted(set(map(str, having.index)) - set(common))
        note = f"without {', '.join(left)}, which not every objective has"
    elif not whole.all():
        note = "without draws that some search lacks"
    return cells[whole], note


# Read rows, groups and values of data frames as plain Python values, for the type checker.


def each(frame: pd.DataFrame) -> Iterator[Any]:
    """Each row, with its columns as attributes."""
    return iter(frame.itertuples(index=False))


def groups(
    frame: pd.DataFrame, by: str | Sequence[str], sort: bool = True
) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Each combination of values in the columns `by`, with its rows. Missing values form groups too.

    Combinations are sorted or, if `sort` is false, in the order in which they appear.
    """
    return iter(frame.groupby(by if isinstance(by, str) else list(by), dropna=False, sort=sort))


def at(frame: pd.DataFrame, row: Any, column: str) -> float:
    """One number of a frame."""
    value: Any = frame.at[row, column]
    return float(value)


def column(frame: pd.DataFrame, name: str, default: Any) -> list[Any]:
    """The strings and dictionaries in a column; `default` for other values, or if there is no column."""
    if name not in frame:
        return [default] * len(frame)
    return [value if isinstance(value, str | dict) else default for value in frame[name]]


def budgets(frame: pd.DataFrame) -> list[BudgetRecord | None]:
    """The budget of each cell, which limits the removed cost; None if the cell removes k units."""
    return column(frame, "budget", None)


# What a cell removes, as masks and sets of units.


def masks(frame: pd.DataFrame) -> list[Mask]:
    """The masks of finished cells."""
    rows = zip(frame["n_blocks"], frame["dropped"], column(frame, "unit", "block"), strict=True)
    return [Mask(int(n), dropped, "sublayer" if KINDS[unit] else "block") for n, dropped, unit in rows]


def mask_of(row: pd.Series[Any]) -> Mask:
    """The mask of a finished cell."""
    return masks(row.to_frame().T)[0]


def n_open(frame: pd.DataFrame) -> pd.Series[int]:
    """The number of units that each finished cell could remove."""
    protected = frame[["protect_first", "protect_last"]].fillna(0).sum(axis=1)
    of_block = [len(KINDS[unit]) or 1 for unit in column(frame, "unit", "block")]
    return ((frame["n_blocks"] - protected) * of_block).astype(int)


# What a cell removes, in words.
#
# Blocks and sub-layers are not comparable, nor are k units and a share of the parameters, nor a mask with and
# without repair. So the `model` of the frame also names what is removed and what replaces it, unless k whole blocks
# are removed without compensation. Strata, comparisons, rankings and titles use this label.

UNKNOWN = "unknown unit"  # for an unfinished cell, in a study with several units
WORDS = {
    "block": "block",
    "sublayer": "sub-layer",
    "attention": "attention sub-layer",
    "mlp": "MLP sub-layer",
}
NO_COMPENSATION = "none"
UNKNOWN_COMPENSATION = "unknown compensation"  # for an unfinished cell, in a study with several compensations
COMPENSATIONS = ("magnitude", "linear", UNKNOWN_COMPENSATION)
COUNTED, LATENCY = "counted", "latency"
_SHARE = {"sublayer", "attention", "mlp", LATENCY}  # if a label has one of these, the size is a share
_PART = re.compile("|".join([*_SHARE, UNKNOWN, COUNTED, *COMPENSATIONS, r"[\d.]+ %"]))


def label(model: str, unit: str, cost: str | None, more: Sequence[str] = ()) -> str:
    """The label of a model: its name and what is removed. `cost` is None if k units are removed."""
    parts = [unit] if unit != "block" else []
    if unit not in ("block", UNKNOWN) and cost is None:
        parts.append(COUNTED)
    parts += [cost] if cost == LATENCY else []
    return f"{model} ({', '.join([*parts, *more])})" if parts or more else model


def _parts(model: str) -> list[str]:
    """The parts that a label has in parentheses; empty if the parentheses belong to the model's own name."""
    name, _, rest = model.rpartition(" (")
    parts = rest.removesuffix(")").split(", ")
    return parts if name and rest.endswith(")") and all(map(_PART.fullmatch, parts)) else []


def bare(model: str) -> str:
    """The name of the model in a label."""
    return model.rpartition(" (")[0] if _parts(model) else model


def uncompensated(model: str) -> str:
    """The label without the compensation: the label of the same masks before repair."""
    name, parts = bare(model), [part for part in _parts(model) if part not in COMPENSATIONS]
    return f"{name} ({', '.join(parts)})" if parts else name


def size(model: str, k: float) -> str:
    """The size of a stratum: `k = 3`, or `≈ 3 blocks` if the removed share of the cost is that of 3 blocks."""
    parts = _parts(model)
    if COUNTED in parts or not _SHARE & {*parts}:
        return f"k = {int(k)}"
    return f"≈ {int(k)} block{'' if int(k) == 1 else 's'}"


def removed(row: pd.Series[Any]) -> str:
    """What a cell removes: `3 of 30 blocks removed`, or `10 % of the parameters removed`; empty if unknown."""
    unit, cost, k = _value(row, "unit", "block"), _value(row, "cost", None), row["k"]
    repair = compensated(_value(row, "compensation", NO_COMPENSATION))
    if cost is not None:
        only = {"attention": ", only attention", "mlp": ", only MLPs"}.get(unit, "")
        return f"{100 * row['ratio']:g} % of the {cost} removed{only}{repair}"
    if pd.isna(k):
        return ""
    if unit not in KINDS or pd.isna(row["n_blocks"]):
        return f"{int(k):,} {WORDS.get(unit, 'unit')}{'' if k == 1 else 's'} removed{repair}"
    among = int(row["n_blocks"]) * (len(KINDS[unit]) or 1)
    return f"{int(k)} of {among} {WORDS[unit]}s removed{repair}"


def compensated(found: str) -> str:
    """The end of a mask's description, such as `, compensation=linear`; empty without a compensation."""
    if found in (NO_COMPENSATION, UNKNOWN_COMPENSATION):
        return "" if found == NO_COMPENSATION else f", {found}"
    return f", compensation={found}"


def noun(frame: pd.DataFrame) -> str:
    """The word for what masks of finished cells remove: `blocks`, `sub-layers`, or `units` if both occur."""
    units = {KINDS.get(unit, "") == "" for unit in column(frame, "unit", "block")}
    return "units" if len(units) > 1 else "blocks" if units == {True} else "sub-layers"


def _value(row: pd.Series[Any], name: str, default: Any) -> Any:
    value = row.get(name)
    return value if isinstance(value, str) else default
