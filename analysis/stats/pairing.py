"""Which pairs of a group are compared: all of them, or in a large group a sample that grows with the group only.

A group of m members has m (m - 1) / 2 pairs. If m is above FULL, the members are put in a circle in random order, and
each is compared with its nearest neighbours on both sides, PARTNERS in all. So every member is in equally many pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .grid import Labels

PARTNERS = 128  # even: half of them on each side
FULL = PARTNERS + 1  # the largest group of which all pairs are compared
SAMPLED = f"in groups of more than {FULL} masks, each is compared with {PARTNERS} others drawn at random"


@cache
def positions(m: int) -> tuple[Labels, Labels]:
    """The compared pairs of positions 0 to m - 1: two arrays (pairs,), the smaller position first, in order."""
    if m <= FULL:
        first, second = np.triu_indices(m, 1)
        return first.astype(np.int64), second.astype(np.int64)
    circle = np.random.default_rng(0).permutation(m)
    at, step = np.arange(m)[:, None], np.arange(1, PARTNERS // 2 + 1)
    ends = np.stack([np.broadcast_to(circle[at], (m, len(step))), circle[(at + step) % m]]).reshape(2, -1)
    ends = np.sort(ends, axis=0)
    first, second = ends[:, np.lexsort(ends[::-1])]
    return first, second


def members(group: Labels) -> Iterator[Labels]:
    """The rows of each group, in the order of the labels."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order])) + 1
    yield from np.split(order, starts)


def within(group: Labels, level: NDArray[Any]) -> tuple[Labels, Labels]:
    """The rows (pairs,) and (pairs,) of all compared pairs of a group, except pairs of equal `level`."""
    pairs = [
        (rows[first], rows[second]) for rows in members(group) for first, second in [positions(len(rows))]
    ]
    if not pairs:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    first, second = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    other = level[first] != level[second]
    return first[other], second[other]


def sampled(group: Labels) -> bool:
    """Whether some group has more pairs than are compared."""
    return bool(len(group)) and int(np.unique(group, return_counts=True)[1].max()) > FULL
