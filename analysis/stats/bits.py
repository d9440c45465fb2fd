"""Masks as bits in 64-bit words, so that the blocks shared by many pairs of masks are counted at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pruning.core.mask import Mask

Words = NDArray[np.uint64]


def words(masks: Sequence[Mask]) -> Words:
    """The removed blocks of each mask (masks, words): block b is a bit of word b // 64."""
    members = np.zeros((len(masks), max((mask.n_units for mask in masks), default=1)), dtype=bool)
    for row, mask in zip(members, masks, strict=True):
        row[list(mask.dropped)] = True
    return packed(members)


def packed(members: NDArray[np.bool_]) -> Words:
    """Sets of blocks (..., blocks) as words (..., words)."""
    short = -members.shape[-1] % 64
    padded = np.pad(members, [*[(0, 0)] * (members.ndim - 1), (0, short)])
    return np.packbits(padded, axis=-1).view(np.uint64)


def shared(first: Words, second: Words) -> NDArray[np.int64]:
    """How many blocks two masks have in common. The last axis, which holds the words, is summed."""
    return np.asarray(np.bitwise_count(first & second).sum(axis=-1, dtype=np.int64))


def sizes(masks: Words) -> NDArray[np.int64]:
    """How many blocks each mask removes."""
    return shared(masks, masks)
