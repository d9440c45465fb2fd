"""What a result says about the unit, the budget and the compensation of its cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruning.core.mask import Mask
from pruning.core.result import DoneResult
from pruning.core.search_record import BudgetRecord
from pruning.runs.removal import KINDS, Removal

from ..stats.removal import NO_COMPENSATION

NONE = "NoCompensation"  # a class of pruning.engine.compensation; the analysis must not import torch


def removal_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The unit that is removed, and what a ratio is a share of (`cost`); None if units are counted.

    Raises ValueError if there is no such unit.
    """
    ratio, k = config.get("ratio"), config.get("k")
    removal = Removal(ratio, k, config.get("unit", "block"), config.get("budget", "parameters"))
    if removal.unit not in KINDS:
        raise ValueError(f"its unit is {removal.unit!r}")
    return {"unit": removal.unit, "cost": None if removal.counted else removal.budget}


def compensation_of(config: Mapping[str, Any]) -> str:
    """What stands in for removed units: none, magnitude, linear or diagonal."""
    name = str((config.get("compensation") or {}).get("class", NONE))
    return NO_COMPENSATION if name == NONE else name.lower()


def budget_of(result: DoneResult, mask: Mask) -> BudgetRecord | None:
    """The budget of a cell; None if its units are counted. Raises ValueError if mask and settings disagree."""
    removal = removal_of(result["config"])
    if mask.unit != Removal(None, None, removal["unit"]).mask_unit:
        raise ValueError(f"its mask is over units ({mask.unit}) that are not those of unit={removal['unit']}")
    if removal["cost"] is None:
        return None
    budget = result["search"]["budget"]
    if len(budget["costs"]) != mask.n_units or not budget["least"] <= budget["most"]:
        raise ValueError("its budget is not one of its units")
    return budget
