"""Masks: which units of a model are removed. This module does not use torch.

A unit is a whole block (`unit="block"`) or a sub-layer of a block (`unit="sublayer"`). Sub-layers are counted in the
order in which they run: unit 2i is the attention of block i, and unit 2i + 1 is its MLP.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, TypedDict

from pruning.core.errors import InputError, shown

UNITS = ("block", "sublayer")  # what the indices of a mask count
NAME = re.compile(r"([abm]?)(\d+)")


class MaskRecord(TypedDict):
    """A mask in the form that `mask.json` and `result.json` hold."""

    n_blocks: Annotated[int, "Number of blocks of the dense model."]
    dropped: Annotated[
        list[int] | list[str],
        "The removed blocks, sorted, counted from 0. Sub-layers are names: `a3` is the attention of block 3, `m3` "
        "its MLP, and `b3` both.",
    ]
    unit: NotRequired[Annotated[str, "`sublayer` if attention and MLP are removed apart; absent for blocks."]]


@dataclass(frozen=True, slots=True)
class Mask:
    """Which of a model's units are removed: blocks, or the sub-layers of blocks.

    `dropped` is sorted and has no duplicates, so equal sets give equal masks with equal hashes.
    Raises InputError unless `n_blocks` is a whole number of at least 1, `unit` is one of UNITS, and `dropped` holds
    whole numbers from 0 to n_units-1.
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
        """The blocks of which nothing is left, in order."""
        if self.unit == "block":
            return self.dropped
        return tuple(i // 2 for i in self.dropped if i % 2 == 0 and i + 1 in self.dropped)

    def drop(self, *indices: int) -> Mask:
        """A copy of this mask that removes the units `indices` as well."""
        return Mask(self.n_blocks, (*self.dropped, *indices), self.unit)

    def jaccard(self, other: Mask) -> float:
        """Overlap of two removed sets: size of the intersection over size of the union; 1 if both are empty."""
        a, b = set(self.dropped), set(other.dropped)
        return len(a & b) / len(a | b) if a | b else 1.0

    def as_blocks(self) -> Mask | None:
        """The mask over blocks that removes the same; None if only a part of some block is removed."""
        if self.unit == "block":
            return self
        return Mask(self.n_blocks, self.gone) if len(self.dropped) == 2 * len(self.gone) else None

    def as_sublayers(self) -> Mask:
        """The mask over sub-layers that removes the same."""
        if self.unit == "sublayer":
            return self
        return Mask(self.n_blocks, tuple(u for i in self.dropped for u in (2 * i, 2 * i + 1)), "sublayer")

    def names(self) -> tuple[str, ...]:
        """The short notation: numbers of blocks, or `a3`, `m3` and, if both are removed, `b3`."""
        return unit_names(self.unit, self.dropped)

    def listed(self) -> list[int] | list[str]:
        """The removed blocks, or the names of the removed sub-layers, as files hold them."""
        return list(self.dropped) if self.unit == "block" else list(self.names())

    def to_json(self) -> MaskRecord:
        """The form that mask.json and result.json hold."""
        if self.unit == "block":
            return {"n_blocks": self.n_blocks, "dropped": self.listed()}
        return {"n_blocks": self.n_blocks, "dropped": self.listed(), "unit": self.unit}

    def __str__(self) -> str:
        """How much is removed, in words: `6 of 30 blocks` or `9 of 60 sub-layers`."""
        return f"{len(self.dropped)} of {self.n_units} {unit_noun(self.unit)}s"

    def described(self) -> str:
        """What is removed, for an error: `blocks [2, 5]` or `a3 m7`."""
        return f"blocks {list(self.dropped)}" if self.unit == "block" else " ".join(self.names())

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Mask:
        """The inverse of `to_json`. Raises InputError if `data` is not a mask."""
        try:
            (count,) = whole_numbers((data["n_blocks"],))
            dropped, unit = tuple(data["dropped"]), data.get("unit", "block")
            return cls(count, tuple(_units(dropped)) if unit == "sublayer" else dropped, unit)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"not a mask: {data!r} (expected n_blocks and dropped).") from error

    @classmethod
    def parse(cls, n_blocks: int, text: str) -> Mask:
        """The mask of a list such as `3,7,12` or `a3 m7 b12`; over sub-layers if it names an `a` or an `m`.

        Raises InputError for any other text.
        """
        if not isinstance(text, str):
            raise InputError(
                f"{shown(text)} is not text: write blocks as in Mask.parse({n_blocks}, '3,7,12')."
            )
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
    """The values as numbers of Python. Raises TypeError unless all are whole numbers: 1.7, '1' and True are not."""
    given = tuple(values)
    if any(isinstance(value, bool) for value in given):
        raise TypeError("True and False are no numbers here")
    return tuple(map(operator.index, given))


def unit_noun(unit: str) -> str:
    """What a person calls a unit: `block` or `sub-layer`."""
    return "block" if unit == "block" else "sub-layer"


def unit_names(unit: str, dropped: Iterable[int]) -> tuple[str, ...]:
    """The short notation of units: numbers of blocks, or `a3`, `m3` and, if both are in the list, `b3`."""
    removed = sorted(dropped)
    if unit == "block":
        return tuple(map(str, removed))
    both = {i // 2 for i in removed if i + 1 in removed and i % 2 == 0}
    named = (f"b{i // 2}" if i // 2 in both else f"{'am'[i % 2]}{i // 2}" for i in removed)
    return tuple(dict.fromkeys(named))


def _units(names: Iterable[Any]) -> Iterator[int]:
    """The sub-layers that names stand for; a number alone is a block."""
    for name in names:
        match = NAME.fullmatch(str(name))
        if match is None:
            raise InputError(f"'{name}' names no sub-layer: write a3, m3 or b3.")
        block = int(match[2])
        yield from [2 * block, 2 * block + 1] if match[1] in ("", "b") else [2 * block + "am".index(match[1])]
