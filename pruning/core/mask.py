"""Masks: which units of a model are removed. This module does not use torch.

A unit is a whole block (`unit="block"`) or a sub-layer of a block (`unit="sublayer"`). Sub-layers are counted in the
order in which they run: unit 2i is the attention of block i, and unit 2i + 1 is its MLP.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, NotRequired, TypedDict

import numpy as np

from pruning.core.errors import InputError, check_least, shown, unknown

UNITS = ("block", "sublayer")  # what the indices of a mask count
NAME = re.compile(r"([abm]?)(\d+)")


class MaskRecord(TypedDict):
    """A mask in the form of `mask.json` and `result.json`."""

    n_blocks: int
    dropped: list[int] | list[str]
    unit: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Mask:
    """Which of a model's units are removed: blocks, or the sub-layers of blocks.

    `dropped` is sorted and has no duplicates, so equal sets give equal masks with equal hashes.
    Raises InputError unless `n_blocks` is a whole number of at least 1, `unit` is one of UNITS, and `dropped`
    contains whole numbers from 0 to n_units-1.
    """

    n_blocks: int
    dropped: tuple[int, ...] = ()
    unit: str = "block"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError(f"unit={self.unit!r} of a mask is unknown: choose from {', '.join(UNITS)}.")
        try:
            (n_blocks,) = whole_numbers((self.n_blocks,))
        except TypeError:
            n_blocks = 0
        if n_blocks < 1:
            raise InputError(
                f"n_blocks={shown(self.n_blocks)} of a mask: give the number of blocks of the model, a whole number "
                "of at least 1."
            )
        object.__setattr__(self, "n_blocks", n_blocks)
        try:
            dropped = tuple(sorted(set(whole_numbers(self.dropped))))
        except TypeError as error:
            raise InputError(
                f"{shown(self.dropped)} are not numbers of {unit_noun(self.unit)}s: for names, write "
                f"Mask.parse({n_blocks}, 'a3,m7,b12'); else give whole numbers, such as (2, 3)."
            ) from error
        wrong = [i for i in dropped if not 0 <= i < self.n_units]
        if wrong:
            what = f"{unit_noun(self.unit)}s"
            raise InputError(f"{what} {wrong} do not exist: the model has {what} 0 to {self.n_units - 1}.")
        object.__setattr__(self, "dropped", dropped)

    @property
    def n_units(self) -> int:
        """The number of units of the dense model."""
        return self.n_blocks if self.unit == "block" else 2 * self.n_blocks

    @property
    def kept(self) -> tuple[int, ...]:
        """The units that stay, in order."""
        dropped = set(self.dropped)
        return tuple(i for i in range(self.n_units) if i not in dropped)

    @property
    def ratio(self) -> float:
        """The fraction of the units that is removed."""
        return len(self.dropped) / self.n_units

    @property
    def dense(self) -> Mask:
        """The mask over the same units that removes nothing."""
        return Mask(self.n_blocks, (), self.unit)

    @property
    def gone(self) -> tuple[int, ...]:
        """The blocks that are removed completely, in order."""
        if self.unit == "block":
            return self.dropped
        return tuple(i // 2 for i in self.dropped if i % 2 == 0 and i + 1 in self.dropped)

    def drop(self, *indices: int) -> Mask:
        """A mask that removes the units of this mask and the units `indices`."""
        return Mask(self.n_blocks, (*self.dropped, *indices), self.unit)

    def jaccard(self, other: Mask) -> float:
        """Overlap of two removed sets: size of the intersection over size of the union; 1 if both are empty."""
        a, b = set(self.dropped), set(other.dropped)
        return len(a & b) / len(a | b) if a | b else 1.0

    def as_blocks(self) -> Mask | None:
        """The mask with blocks as units that removes the same weights; None if a block is only partly removed."""
        if self.unit == "block":
            return self
        return Mask(self.n_blocks, self.gone) if len(self.dropped) == 2 * len(self.gone) else None

    def as_sublayers(self) -> Mask:
        """The mask with sub-layers as units that removes the same weights."""
        if self.unit == "sublayer":
            return self
        return Mask(self.n_blocks, tuple(u for i in self.dropped for u in (2 * i, 2 * i + 1)), "sublayer")

    def names(self) -> tuple[str, ...]:
        """The removed units in short: `3` for a block, `a3` or `m3` for a sub-layer, `b3` for both of a block."""
        return unit_names(self.unit, self.dropped)

    def listed(self) -> list[int] | list[str]:
        """The numbers of the removed blocks, or the names of the removed sub-layers, as files store them."""
        return list(self.dropped) if self.unit == "block" else list(self.names())

    def to_json(self) -> MaskRecord:
        """The mask as mask.json and result.json store it."""
        record: MaskRecord = {"n_blocks": self.n_blocks, "dropped": self.listed()}
        return record if self.unit == "block" else {**record, "unit": self.unit}

    def __str__(self) -> str:
        """How much is removed, as text: `6 of 30 blocks` or `9 of 60 sub-layers`."""
        return f"{len(self.dropped)} of {self.n_units} {unit_noun(self.unit)}s"

    def described(self) -> str:
        """What is removed, for an error message: `blocks [2, 5]` or `a3 m7`."""
        return f"blocks {list(self.dropped)}" if self.unit == "block" else " ".join(self.names())

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Mask:
        """The inverse of `to_json`. Raises InputError if `data` is not a mask."""
        try:
            (count,) = whole_numbers((data["n_blocks"],))
            dropped, unit = tuple(data["dropped"]), data.get("unit", "block")
        except (LookupError, TypeError, AttributeError) as error:
            raise InputError(f"not a mask: {data!r} (expected n_blocks and dropped).") from error
        return cls(count, tuple(_units(dropped)) if unit == "sublayer" else dropped, unit)

    @classmethod
    def parse(cls, n_blocks: int, text: str) -> Mask:
        """The mask for text such as `3,7,12` or `a3 m7 b12`; its units are sub-layers if an `a` or `m` occurs."""
        if not isinstance(text, str):
            raise InputError(f"{shown(text)} is not text: use Mask.parse({n_blocks}, '3,7,12').")
        words = text.replace(",", " ").split()
        if not all(NAME.fullmatch(word) for word in words):
            raise InputError(
                f"'{text}' is not a list of blocks or sub-layers: write blocks as 3,7,12, or sub-layers as in "
                "a3,m7,b12 (the attention of block 3, the MLP of block 7, and block 12)."
            )
        if any(word[0] in "am" for word in words):
            return cls(n_blocks, tuple(_units(words)), "sublayer")
        return cls(n_blocks, tuple(int(word.removeprefix("b")) for word in words))


def whole_numbers(values: Iterable[Any]) -> tuple[int, ...]:
    """The values as Python integers. Raises TypeError unless all are whole numbers: 1.7, '1' and True are not."""
    given = tuple(values)
    if any(isinstance(value, bool) for value in given):
        raise TypeError("True and False are not numbers here")
    return tuple(map(operator.index, given))


def unit_noun(unit: str) -> str:
    """The word for a unit in messages: `block` or `sub-layer`."""
    return "block" if unit == "block" else "sub-layer"


def unit_names(unit: str, dropped: Iterable[int]) -> tuple[str, ...]:
    """The units in short: `3` for a block, `a3` or `m3` for a sub-layer, `b3` for both of a block."""
    removed = sorted(dropped)
    if unit == "block":
        return tuple(map(str, removed))
    both = {i // 2 for i in removed if i + 1 in removed and i % 2 == 0}
    named = (f"b{i // 2}" if i // 2 in both else f"{'am'[i % 2]}{i // 2}" for i in removed)
    return tuple(dict.fromkeys(named))


def _units(names: Iterable[Any]) -> Iterator[int]:
    """Yield the indices of the sub-layers that `names` denote; a plain number denotes a block."""
    for name in names:
        match = NAME.fullmatch(str(name))
        if match is None:
            raise InputError(f"'{name}' names no sub-layer: write a3, m3 or b3.")
        block = int(match[2])
        yield from [2 * block, 2 * block + 1] if match[1] in ("", "b") else [2 * block + "am".index(match[1])]


# What `result.json` says about the search: what it cost, and what had to be removed.


class BudgetRecord(TypedDict):
    """A cell's budget: the asked and the removed share of the total cost, each unit's cost, and the limits."""

    cost: str
    asked: float
    removed: float
    costs: list[int]
    least: int
    most: int


class SearchRecord(TypedDict):
    """What the search did and what it cost."""

    algo: str
    k: int
    ratio: float
    budget: NotRequired[BudgetRecord]
    stopped: str
    evaluations_asked: float
    evaluations_paid: float
    evaluations_shared: float
    seconds: float
    block_forwards: float
    block_forwards_alone: float
    block_tokens: int
    forward_seconds: float
    peak_memory: int


# Budgets: the costs of units, and the sets of units whose costs meet a budget.
#
# Costs are parameters or times, rounded to whole numbers such that the sum over all units is about SCALE. So
# one integer can represent all sums up to a budget: its bit s is set if some set of units costs exactly s.

SCALE = 10_000


@dataclass(frozen=True)
class Budget:
    """The cost of every unit, and the minimum and maximum total cost of the removed units."""

    costs: tuple[int, ...]
    least: int
    most: int

    @classmethod
    def share(cls, values: Sequence[float], ratio: float, free: Sequence[int]) -> Budget:
        """The budget for removing `ratio` of all costs, give or take half the lowest cost of a free unit.

        At least one unit stays. Raises InputError if no set of `free` units meets the budget.
        """
        total = sum(values)
        costs = tuple(max(1, round(SCALE * value / total)) for value in values)
        target, half = ratio * SCALE, min((costs[i] for i in free), default=0) / 2
        most = min(int(target + half), sum(costs) - min(costs))
        made = cls(costs, max(1, -int(-(target - half) // 1)), most)
        if not made.fitting(0, free):
            raise InputError(
                f"ratio={ratio:g} of the blocks' costs cannot be removed: no set of the units that can be removed "
                f"({sum(costs[i] for i in free) / SCALE:.3g} of the costs) comes as close as {half / SCALE:.2g} to "
                "it. Choose another ratio, give k, or protect fewer blocks (protect.first, protect.last)."
            )
        return made

    @classmethod
    def recorded(cls, record: BudgetRecord) -> Budget:
        """The budget of a finished cell."""
        return cls(tuple(record["costs"]), record["least"], record["most"])

    def met_by(self, units: Iterable[int]) -> bool:
        """Whether the total cost of `units` meets the budget."""
        return self.least <= sum(self.costs[i] for i in units) <= self.most

    def fitting(self, spent: int, others: Sequence[int]) -> list[int]:
        """Those of `others` after whose removal the budget can still be met; `spent` is the cost removed before."""
        costs = tuple(sorted(self.costs[i] for i in others))
        allowed = {cost for cost in set(costs) if _can_follow(self, spent + cost, costs, cost)}
        return [i for i in others if self.costs[i] in allowed]

    def count(self, free: Sequence[int]) -> int:
        """The number of sets of the units `free` that meet the budget."""
        return _count(self, tuple(free))

    def sets(self, free: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """All sets of the units `free` that meet the budget, in lexicographic order."""
        costs, reachable = [self.costs[i] for i in free], [1]
        for cost in reversed(costs):  # bit s of reachable[i]: some subset of free[i:] costs s
            reachable.append(self._plus(reachable[-1], cost))
        reachable.reverse()

        def extended(chosen: tuple[int, ...], spent: int, start: int) -> Iterator[tuple[int, ...]]:
            if spent >= self.least:
                yield chosen
            for i in range(start, len(free)):
                if self._meets(reachable[i + 1], spent + costs[i]):
                    yield from extended((*chosen, free[i]), spent + costs[i], i + 1)

        return extended((), 0, 0)

    def most_units(self, free: Sequence[int]) -> int:
        """The largest number of units in a set of `free` units that meets the budget; -1 if no set does."""
        # For each cost s, the largest number of units that cost s together; negative if no units do.
        units = np.full(self.most + 1, -len(self.costs) - 1)
        units[0] = 0
        for cost in (self.costs[i] for i in free):
            if cost <= self.most:
                units[cost:] = np.maximum(units[cost:], units[: len(units) - cost] + 1)
        return max(-1, int(units[self.least :].max()))

    def _plus(self, sums: int, cost: int) -> int:
        """A bitset of each sum in `sums` without and with `cost` added; sums above `most` are left out."""
        return (sums | sums << cost) & ((1 << (self.most + 1)) - 1)

    def _meets(self, sums: int, spent: int) -> bool:
        """Whether the budget is met by `spent` plus some sum in the bitset `sums`."""
        if spent > self.most:
            return False
        allowed = sums & ((1 << (self.most - spent + 1)) - 1)
        return allowed >> max(0, self.least - spent) != 0


@lru_cache(maxsize=256)
def _count(budget: Budget, free: tuple[int, ...]) -> int:
    ways = np.zeros(budget.most + 1, dtype=object)
    ways[0] = 1
    for cost in (budget.costs[i] for i in free):
        if cost <= budget.most:
            ways[cost:] = ways[cost:] + ways[: len(ways) - cost]
    return int(ways[budget.least :].sum())


@lru_cache(maxsize=65_536)
def _can_follow(budget: Budget, spent: int, costs: tuple[int, ...], used: int) -> bool:
    """Whether `spent` plus some of `costs`, without one cost that equals `used`, can meet the budget."""
    rest = list(costs)
    rest.remove(used)
    sums = 1
    for cost in rest:
        sums = budget._plus(sums, cost)
    return budget._meets(sums, spent)


def is_complete(dropped: Collection[int], k: int, budget: BudgetRecord | None) -> bool:
    """Whether a mask in a finished cell's trace removes exactly k units or, with a budget, units that meet it."""
    return len(dropped) == k if budget is None else Budget.recorded(budget).met_by(dropped)


# The space of masks that a search may return.


@dataclass(frozen=True, slots=True)
class Space:
    """All masks that remove exactly `k` unprotected units or, with a `budget`, those whose units meet it.

    With a budget, `k` is the largest number of units that any mask of the space removes.
    """

    n_blocks: int
    k: int
    protected: frozenset[int] = frozenset()
    unit: str = "block"
    budget: Budget | None = None

    def __post_init__(self) -> None:
        Mask(self.n_blocks, tuple(self.protected), self.unit)  # raises InputError if a unit does not exist
        if self.budget is not None:
            return
        noun, count = unit_noun(self.unit), self.n_units
        free = count - len(self.protected)
        most = min(count - 1, free)
        if most < 1:
            raise InputError(
                f"no {noun} can be removed: the model has {count}, {len(self.protected)} of them protected, and at "
                "least one must stay. Protect fewer blocks (protect.first, protect.last), or choose a model of more "
                "blocks."
            )
        if not 1 <= self.k <= most:
            raise InputError(
                f"k = {self.k} {noun}s cannot be removed from a model of {count}, of which {free} are unprotected: "
                f"choose {f'k from 1 to {most}' if most > 1 else 'k=1'}, or protect fewer blocks (protect.first, "
                "protect.last)."
            )

    @property
    def n_units(self) -> int:
        """The number of units of the model."""
        return self.dense.n_units

    @property
    def size(self) -> int:
        """The number of masks in the space; without a budget, n choose k for n unprotected units."""
        if self.budget is None:
            return math.comb(self.n_units - len(self.protected), self.k)
        return self.budget.count(tuple(self.free()))

    def masks(self) -> Iterator[Mask]:
        """All masks of the space, in lexicographic order."""
        free = self.free()
        chosen = combinations(free, self.k) if self.budget is None else self.budget.sets(free)
        return (self.drop(*units) for units in chosen)

    @property
    def dense(self) -> Mask:
        """The mask that removes nothing."""
        return Mask(self.n_blocks, (), self.unit)

    def free(self, dropped: Iterable[int] = ()) -> list[int]:
        """The unprotected units that are not in `dropped`, in order."""
        closed = self.protected | set(dropped)
        return [i for i in range(self.n_units) if i not in closed]

    def drop(self, *indices: int) -> Mask:
        """The mask that removes the units `indices`; it need not be in the space."""
        return Mask(self.n_blocks, indices, self.unit)

    def cost(self, *indices: int) -> int:
        """The total cost of the units `indices`; without a budget, their number."""
        return len(indices) if self.budget is None else sum(self.budget.costs[i] for i in indices)

    def complete(self, mask: Mask) -> bool:
        """Whether a mask removes exactly `k` units or, with a budget, units that meet it."""
        if self.budget is None:
            return len(mask.dropped) == self.k
        return self.budget.met_by(mask.dropped)

    def __contains__(self, mask: Mask) -> bool:
        return (mask.n_blocks, mask.unit) == (self.n_blocks, self.unit) and (
            self.complete(mask) and not self.protected & set(mask.dropped)
        )

    def fitting(self, dropped: Iterable[int] = ()) -> list[int]:
        """The units that can be added to `dropped`, one at a time, on the way to a mask of the space."""
        removed = set(dropped)
        others = self.free(removed)
        if self.budget is None:
            return others if len(removed) < self.k else []
        return self.budget.fitting(self.cost(*removed), others)

    def extendable(self, mask: Mask) -> bool:
        """Whether a mask is in the space or can be extended to a mask of the space."""
        inside = not self.protected & set(mask.dropped)
        return inside and (self.complete(mask) or bool(self.fitting(mask.dropped)))

    def filled(self, dropped: Iterable[int], order: Iterable[int]) -> Mask:
        """The mask made from `dropped` by adding the units of `order` that fit, in turn, until it is in the space.

        A unit fits if `fitting` has it; one that does not fit now never fits later. So if `order` has
        all units outside `dropped`, and `dropped` is `extendable`, the result is in the space.
        """
        mask = self.drop(*dropped)
        if self.budget is None:  # the same result, faster
            closed, left = self.protected | set(mask.dropped), max(0, self.k - len(mask.dropped))
            return mask.drop(*[unit for unit in dict.fromkeys(order) if unit not in closed][:left])
        fits: set[int] | None = None  # None: not known yet
        for unit in order:
            if self.complete(mask):
                break
            fits = set(self.fitting(mask.dropped)) if fits is None else fits
            if unit in fits:
                mask, fits = mask.drop(unit), None
        return mask

    def kind(self, unit: int) -> str:
        """The kind of a unit: `block` or, for a sub-layer, `attention` or `mlp`."""
        return "block" if self.unit == "block" else ("attention", "mlp")[unit % 2]

    def per_cost(self, rise: float, unit: int) -> float:
        """A rise of the loss, divided by the cost of the unit that caused it; without a budget, the rise itself."""
        return rise if self.budget is None else rise / self.budget.costs[unit]


def space_of(mask: Mask, search: SearchRecord) -> Space:
    """The space of a finished search, from its final mask and its record, as if no unit had been protected."""
    if (record := search.get("budget")) is None:
        return Space(mask.n_blocks, len(mask.dropped), unit=mask.unit)
    budget = Budget.recorded(record)
    return Space(mask.n_blocks, budget.most_units(range(mask.n_units)), frozenset(), mask.unit, budget)


# What a cell removes: which units, how many of them, and what they cost.
#
# Sub-layers differ in size. So a ratio of them is a fraction of the parameters of all blocks, or of the time
# that these take on this device, and the space is known only when the model is loaded.

# The values of `unit`, and the kinds of sub-layers that can then be removed: attention, MLP, or both.
KINDS = {"block": "", "sublayer": "am", "attention": "a", "mlp": "m"}
COSTS = ("parameters", "latency")


@dataclass(unsafe_hash=True)  # not frozen, because OmegaConf makes frozen dataclasses read-only
class Latency:
    """Each unit is timed `repeats` times on a batch of `batch` sequences, each of `tokens` tokens."""

    batch: int = 1
    tokens: int = 512
    repeats: int = 9

    def check(self) -> None:
        """Raise InputError if a number is below 1."""
        check_least("latency", self, batch=1, tokens=1, repeats=1)


@dataclass(frozen=True)
class Removal:
    """What is removed: `k` units or the share `ratio` of all costs; never the first `first` or last `last` blocks."""

    ratio: float | None
    k: int | None
    unit: str = "block"
    budget: str = "parameters"
    first: int = 0
    last: int = 0

    def check(self) -> None:
        """Raise InputError if a setting is wrong whatever the model is."""
        ratio, k = self.ratio, self.k
        if self.unit not in KINDS:
            raise unknown("unit", self.unit, KINDS)
        if self.budget not in COSTS:
            raise unknown("budget", self.budget, COSTS)
        if (ratio is None) == (k is None):
            raise InputError(
                f"ratio={ratio} and k={k}: give either ratio or k, and not both. If an experiment sets the ratio, "
                "ratio=null removes it."
            )
        if ratio is not None and not 0 < ratio < 1:
            raise InputError(f"ratio={ratio:g} is not a fraction of blocks: give one above 0 and below 1.")
        if k is not None and k < 1:
            raise InputError(f"k={k} removes no block: choose 1 or more.")
        if k is not None and self.budget != "parameters":
            raise InputError(
                f"budget={self.budget} and k={k} contradict each other, because k counts units whatever they cost: "
                "give ratio instead of k."
            )
        if self.first < 0 or self.last < 0:
            raise InputError(f"protect.first={self.first} and protect.last={self.last}: give 0 or more.")

    @property
    def mask_unit(self) -> str:
        """The unit of masks: "block" or "sublayer"."""
        return "block" if self.unit == "block" else "sublayer"

    @property
    def counted(self) -> bool:
        """Whether the space fixes the number of removed units and so does not depend on costs."""
        return self.k is not None or (self.unit, self.budget) == ("block", "parameters")

    def space(self, n_blocks: int, costs: Sequence[float] | None = None) -> Space:
        """The space for a model. `costs` has each unit's cost; it is not needed if `counted` is true.

        If `counted` is false, the removed units' share of all costs is `ratio`; it may differ by at most half the
        lowest cost of an unprotected unit. Raises InputError if the model has no such masks.
        """
        self.check()
        first, last, kinds = self.first, self.last, KINDS[self.unit]
        if first + last >= n_blocks > 0:
            raise InputError(
                f"protect.first={first} and protect.last={last} protect all of {n_blocks} blocks: "
                f"choose numbers with a sum below {n_blocks}."
            )
        protected = frozenset(range(first)) | frozenset(range(n_blocks - last, n_blocks))
        if kinds:
            units = range(2 * n_blocks)
            protected = frozenset(u for u in units if u // 2 in protected or "am"[u % 2] not in kinds)
        if self.counted:
            return Space(n_blocks, self._count(n_blocks), protected, self.mask_unit)
        assert costs is not None
        assert self.ratio is not None
        free = [i for i in range(len(costs)) if i not in protected]
        budget = Budget.share(costs, self.ratio, free)
        return Space(n_blocks, budget.most_units(free), protected, self.mask_unit, budget)

    def _count(self, n_blocks: int) -> int:
        """The number of units to remove: k or round(ratio * n_blocks). Raises InputError if that is impossible."""
        if self.k is not None:
            return self.k
        assert self.ratio is not None
        count = round(self.ratio * n_blocks)
        if count and (count < n_blocks or n_blocks == 1):
            return count
        least, most = f"at least {1 / n_blocks:.3f}", f"at most {(n_blocks - 1) / n_blocks:.3f}"
        wrong, choose, k = ("all of them", most, n_blocks - 1) if count else ("no block", least, 1)
        raise InputError(
            f"ratio={self.ratio:g} of {n_blocks} blocks rounds to {wrong}: choose {choose}, or give k={k}."
        )

    def record(self, space: Space, mask: Mask) -> BudgetRecord | None:
        """The budget, and the share of the costs that a mask removes; None if `counted` is true."""
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
