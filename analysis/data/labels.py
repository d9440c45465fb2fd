"""Labels of models: they keep cells apart that nothing compares, those of other units, budgets or compensations.

From `smollm2`, whole blocks are removed; from `smollm2 (sublayer)`, a share of the parameters, in sub-layers; in
`smollm2 (linear)`, linear maps stand in for the removed blocks.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..stats.frames import groups
from ..stats.removal import NO_COMPENSATION, UNKNOWN, UNKNOWN_COMPENSATION, budgets, column, label

Kind = tuple[str, str | None]  # the unit, and what a ratio is a share of; None if units are counted
BLOCKS: Kind = ("block", None)


def with_units(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in the units of cells without a readable result, because their names do not hold them.

    If all cells of the model that can have such a name have the same unit, this unit is taken.
    """
    given: list[tuple[Any, Any]] = list(
        zip(column(frame, "unit", None), column(frame, "cost", None), strict=True)
    )
    known: dict[Any, set[Kind]] = {}
    for model, (unit, cost) in zip(frame["model"], given, strict=True):
        if unit is not None:
            known.setdefault(model, set()).add((unit, cost))
    kinds: list[tuple[Any, Any]] = [
        _likely(known.get(model, {BLOCKS}), counted=pd.isna(ratio)) if unit is None else (unit, cost)
        for model, ratio, (unit, cost) in zip(frame["model"], frame["ratio"], given, strict=True)
    ]
    return frame.assign(unit=[unit for unit, _ in kinds], cost=[cost for _, cost in kinds])


def _likely(known: set[Kind], counted: bool) -> Kind:
    """The kind of a cell of which only the name is known, among the kinds of the model's other cells."""
    fitting = {kind for kind in known if kind == BLOCKS or (kind[1] is None) == counted}
    return fitting.pop() if len(fitting) == 1 else (UNKNOWN, None)


def with_compensation(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in the compensation of cells without a readable result, if all others of the model have the same."""
    given = frame["compensation"]
    known = {str(model): {*cells.dropna()} for model, cells in given.groupby(frame["model"])}
    likely = [known.get(str(model)) or {*given.dropna()} for model in frame["model"]]
    filled = [next(iter(names)) if len(names) == 1 else UNKNOWN_COMPENSATION for names in likely]
    return frame.assign(compensation=given.fillna(pd.Series(filled, frame.index)))


def labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with labels as models. Budgets that share a label and a size are distinguished in the label."""
    models, units, of = list(frame["model"]), list(frame["unit"]), column(frame, "cost", None)
    compensations = column(frame, "compensation", NO_COMPENSATION)

    def name(i: int, more: tuple[str, ...] = ()) -> Any:
        own = () if compensations[i] == NO_COMPENSATION else (compensations[i],)
        return label(models[i], units[i], of[i], (*own, *more)) if isinstance(models[i], str) else models[i]

    names = [name(i) for i in range(len(frame))]
    if names == models:
        return frame
    costs = [None if budget is None else tuple(budget["costs"]) for budget in budgets(frame)]
    named = frame.assign(model=names, position=range(len(frame)))
    for _, cells in groups(named[named["cost"].notna()], ["model", "k"]):
        ratios = cells["ratio"].nunique()
        distinct = list(dict.fromkeys(c for i in cells["position"] if (c := costs[i]) is not None))
        for i, ratio in zip(cells["position"], cells["ratio"], strict=True):
            more = [f"{100 * ratio:g} %"] if ratios > 1 else []
            if len(distinct) > 1 and (own := costs[i]) is not None:
                more.append(f"costs {distinct.index(own) + 1}")
            names[i] = name(i, tuple(more))
    return frame.assign(model=names)
