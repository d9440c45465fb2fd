"""What `result.json` says about the search: what it cost, and what had to be removed."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict


class BudgetRecord(TypedDict):
    """What had to be removed, in parts of the cost of all units."""

    cost: Annotated[str, "What a unit costs: `parameters`, or `latency` as measured on this device."]
    asked: Annotated[float, "The fraction that was asked for."]
    removed: Annotated[float, "The fraction that is removed."]
    costs: Annotated[list[int], "The cost of each unit, in ten-thousandths of all."]
    least: Annotated[int, "The least that a mask may remove, in the same parts."]
    most: Annotated[int, "The most that it may remove."]


class SearchRecord(TypedDict):
    """What the search did and what it cost."""

    algo: Annotated[str, "The option of `algo`."]
    k: Annotated[int, "Number of units removed: blocks or sub-layers."]
    ratio: Annotated[float, "Fraction of the units removed."]
    budget: NotRequired[Annotated[BudgetRecord, "Only if units have costs, as sub-layers have."]]
    stopped: Annotated[str, "Why the search ended."]
    evaluations_asked: Annotated[
        float, "Losses that the search asked for; a loss over half of the samples counts as 0.5."
    ]
    evaluations_paid: Annotated[float, "Of these, the ones that this cell computed itself."]
    evaluations_shared: NotRequired[Annotated[float, "Of these, the ones that other cells had computed."]]
    seconds: Annotated[float, "Wall time of the search, all its runs together."]
    block_forwards: NotRequired[Annotated[float, "Forward passes of one block over all samples."]]
    block_forwards_alone: NotRequired[
        Annotated[float, "Block forwards if each mask had been evaluated by itself, without shared prefixes."]
    ]
    block_tokens: NotRequired[Annotated[int, "Tokens that went through a block, summed over blocks."]]
    forward_seconds: NotRequired[Annotated[float, "Seconds spent in forward passes."]]
    peak_memory: NotRequired[Annotated[int, "The most memory in use, in bytes."]]
