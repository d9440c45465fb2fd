"""Masks over blocks, and the space of masks that a search may return. This module does not use torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from pruning.core.errors import InputError


class MaskRecord(TypedDict):
    """A mask in the form that `mask.json` and `result.json` hold."""

    n_blocks: Annotated[int, "Number of blocks of the dense model."]
    dropped: Annotated[list[int], "The removed blocks, sorted, counted from 0."]


@dataclass(frozen=True, slots=True)
class Mask:
    """Which of a model's blocks are removed.

    `dropped` is sorted and has no duplicates, so equal sets give equal masks with equal hashes.
    Raises InputError for an index outside 0..n_blocks-1.
    """

    n_blocks: int
    dropped: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        dropped = tuple(sorted({int(i) for i in self.dropped}))
        wrong = [i for i in dropped if not 0 <= i < self.n_blocks]
        if wrong:
            raise InputError(f"blocks {wrong} do not exist: the model has blocks 0 to {self.n_blocks - 1}.")
        object.__setattr__(self, "dropped", dropped)

    @property
    def kept(self) -> tuple[int, ...]:
        """The blocks that stay, in order."""
        dropped = set(self.dropped)
        return tuple(i for i in range(self.n_blocks) if i not in dropped)

    @property
    def ratio(self) -> float:
        """The fraction of the blocks that is removed."""
        return len(self.dropped) / self.n_blocks

    def drop(self, *indices: int) -> Mask:
        """A copy of this mask that removes the blocks `indices` as well."""
        return Mask(self.n_blocks, (*self.dropped, *indices))

    def jaccard(self, other: Mask) -> float:
        """Overlap of two removed sets: size of the intersection over size of the union; 1 if both are empty."""
        a, b = set(self.dropped), set(other.dropped)
        return len(a & b) / len(a | b) if a | b else 1.0

    def to_json(self) -> MaskRecord:
        """The form that mask.json and result.json hold."""
        return {"n_blocks": self.n_blocks, "dropped": list(self.dropped)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Mask:
        """The inverse of `to_json`. Raises InputError if `data` is not a mask."""
        try:
            return cls(int(data["n_blocks"]), tuple(data["dropped"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not a mask: {data!r} (expected n_blocks and dropped).") from error


@dataclass(frozen=True, slots=True)
class Space:
    """All masks that remove exactly `k` of `n_blocks` blocks and none of the `protected` ones."""

    n_blocks: int
    k: int
    protected: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        Mask(self.n_blocks, tuple(self.protected))  # raises InputError if a protected block does not exist
        open_blocks = self.n_blocks - len(self.protected)
        most = min(self.n_blocks - 1, open_blocks)
        if most < 1:
            raise InputError(
                f"no block can be removed: the model has {self.n_blocks}, {len(self.protected)} of them protected, "
                "and at least one must stay. Protect fewer blocks (protect.first, protect.last), or choose a model "
                "of more blocks."
            )
        if not 1 <= self.k < self.n_blocks:
            raise InputError(
                f"k = {self.k} blocks cannot be removed from a model of {self.n_blocks}: "
                f"choose {f'k from 1 to {most}' if most > 1 else 'k=1'}."
            )
        if self.k > open_blocks:
            raise InputError(
                f"k = {self.k} is more than the {open_blocks} unprotected blocks of {self.n_blocks}: "
                "lower k or ratio, or protect fewer blocks (protect.first, protect.last)."
            )

    @property
    def size(self) -> int:
        """Number of masks in the space: (n_blocks - protected) choose k."""
        return math.comb(self.n_blocks - len(self.protected), self.k)

    @property
    def dense(self) -> Mask:
        """The mask that removes nothing."""
        return Mask(self.n_blocks)

    def free(self, dropped: Iterable[int] = ()) -> list[int]:
        """The blocks that can still be removed if those in `dropped` are removed already, in order."""
        closed = self.protected | set(dropped)
        return [i for i in range(self.n_blocks) if i not in closed]

    def drop(self, *indices: int) -> Mask:
        """The mask that removes the blocks `indices`; their number can differ from k."""
        return Mask(self.n_blocks, indices)


def check_size(ratio: float | None, k: int | None) -> None:
    """Raise InputError unless exactly one of `ratio` and `k` is given and its value is possible for some model."""
    if (ratio is None) == (k is None):
        given = "neither is given" if k is None else f"both are given (ratio={ratio}, k={k})"
        raise InputError(f"give either ratio or k, not both: {given}.")
    if ratio is not None and not 0 < ratio < 1:
        raise InputError(f"ratio={ratio:g} is not a fraction of the blocks: choose one above 0 and below 1.")
    if k is not None and k < 1:
        raise InputError(f"k={k} removes no block: choose 1 or more.")


def block_count(n_blocks: int, ratio: float | None, k: int | None) -> int:
    """Number of blocks to remove: `k` itself, or round(ratio * n_blocks).

    Raises InputError if `check_size` does, and if `ratio` is so small that round(ratio * n_blocks) is 0.
    """
    check_size(ratio, k)
    if ratio is None:
        assert k is not None
        return k
    rounded = round(ratio * n_blocks)
    if rounded == 0:
        raise InputError(
            f"ratio={ratio:g} of {n_blocks} blocks rounds to no block: "
            f"choose at least {1 / n_blocks:.3f}, or give k=1."
        )
    return rounded


def space(n_blocks: int, ratio: float | None, k: int | None, first: int = 0, last: int = 0) -> Space:
    """The space of a configuration; `first` blocks at the start and `last` blocks at the end are protected."""
    if first < 0 or last < 0:
        raise InputError(f"protect.first={first} and protect.last={last}: neither may be negative.")
    if first + last >= n_blocks > 0:
        raise InputError(
            f"protect.first={first} and protect.last={last} protect all of {n_blocks} blocks: "
            f"choose numbers with a sum below {n_blocks}."
        )
    protected = frozenset(range(first)) | frozenset(range(n_blocks - last, n_blocks))
    return Space(n_blocks, block_count(n_blocks, ratio, k), protected)
