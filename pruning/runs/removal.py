"""What a cell removes: which units, how many of them, and what they cost.

Whole blocks are counted. Sub-layers differ in size, so a ratio of them is a fraction of the parameters of all blocks,
or of the time that they take on this device. Which weights belong to a sub-layer is found by running the model, so
the space of such a cell is known only when the model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.core import spaces
from pruning.core.errors import InputError, unknown
from pruning.core.mask import Mask
from pruning.core.search_record import BudgetRecord
from pruning.core.space import Space

# What `unit` can be, and the kinds of sub-layers that can then be removed: attention, MLP, or both.
KINDS = {"block": "", "sublayer": "am", "attention": "a", "mlp": "m"}
COSTS = ("parameters", "latency")


@dataclass(unsafe_hash=True)  # not frozen, because OmegaConf makes frozen dataclasses read-only
class Latency:
    """The input for which units are timed: `batch` sequences of `tokens` tokens, `repeats` times each."""

    batch: int = 1
    tokens: int = 512
    repeats: int = 9

    def check(self) -> None:
        """Raise InputError if a number is below 1."""
        for name in ("batch", "tokens", "repeats"):
            if getattr(self, name) < 1:
                raise InputError(f"latency.{name}={getattr(self, name)} is too small: choose at least 1.")


@dataclass(frozen=True)
class Removal:
    """`k` units or the fraction `ratio` of their costs, but nothing of the `first` and the `last` blocks."""

    ratio: float | None
    k: int | None
    unit: str = "block"
    budget: str = "parameters"
    first: int = 0
    last: int = 0

    def check(self) -> None:
        """Raise InputError if a value is impossible for every model."""
        if self.unit not in KINDS:
            raise unknown("unit", self.unit, KINDS)
        if self.budget not in COSTS:
            raise unknown("budget", self.budget, COSTS)
        spaces.check_size(self.ratio, self.k)
        if self.k is not None and self.budget != "parameters":
            raise InputError(
                f"budget={self.budget} and k={self.k} contradict each other, because k counts units whatever they "
                "cost: give ratio instead of k."
            )

    @property
    def mask_unit(self) -> str:
        """What masks are over: "block" or "sublayer"."""
        return "block" if self.unit == "block" else "sublayer"

    @property
    def counted(self) -> bool:
        """Whether units are counted, so that the space does not depend on what they cost."""
        return self.k is not None or (self.unit, self.budget) == ("block", "parameters")

    def space(self, n_blocks: int, costs: Sequence[float] | None = None) -> Space:
        """The space for a model; `costs` has a number for each unit, unless units are `counted`.

        Raises InputError if the model has no such masks.
        """
        if self.unit != "block":
            kinds = KINDS[self.unit]
            return spaces.sublayer_space(
                n_blocks, self.ratio, self.k, costs or (), kinds, self.first, self.last
            )
        if self.counted:
            return spaces.space(n_blocks, self.ratio, self.k, self.first, self.last)
        assert costs is not None
        assert self.ratio is not None
        protected = spaces.protected_blocks(n_blocks, self.first, self.last)
        return spaces.cost_space(n_blocks, self.ratio, costs, protected, "block")

    def record(self, space: Space, mask: Mask) -> BudgetRecord | None:
        """How much of the costs a mask removes; None if units are counted."""
        if self.counted or self.ratio is None:
            return None
        budget = space.budget
        assert budget is not None
        removed = space.cost(*mask.dropped) / space.cost(*range(space.n_units))
        return {
            "cost": self.budget,
            "asked": self.ratio,
            "removed": round(removed, 4),
            "costs": list(budget.costs),
            "least": budget.least,
            "most": budget.most,
        }
