"""Criteria that score blocks from one dense pass, as losses of masks, so that every search runs on them.

A criterion measures how far the hidden state moves between two places of the dense model. Removing blocks i..j-1, a
run, joins place i to place j; the loss of a mask adds up its runs:

    by="block"    sum over removed blocks i of         distance(i, i + 1)      additive over blocks
    by="run"      sum over maximal runs i..j-1 of      distance(i, j)          what Gromov et al. and MI-PRUN measure

Place i is before block i, place N behind the last block and before the final norm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pruning.core.errors import unknown
from pruning.core.mask import Mask
from pruning.objective import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from pruning.calibration.samples import Samples
    from pruning.engine.forward import Forward

Array: TypeAlias = np.ndarray[Any, Any]
# States (T, D) of one row at two places, the first one earlier; to how far apart they are.
Distance: TypeAlias = Callable[["Tensor", "Tensor"], float]
WAYS = ("block", "run")


def check_by(by: str) -> None:
    """Raise InputError unless `by` is one of the two ways to add up."""
    if by not in WAYS:
        raise unknown("objective.by", by, WAYS)


def additive(samples: Samples, scores: Callable[[], Array]) -> Loss:
    """A loss that adds up scores of blocks: `scores` gives them as (samples, N) when they are first needed."""
    found = cache(scores)
    return _loss(samples, lambda mask: found()[:, list(mask.dropped)].sum(1))


def between_states(forward: Forward, samples: Samples, distance: Distance, by: str = "block") -> Loss:
    """A loss that adds up distances between states of the dense model, by block or by run."""

    @cache
    def distances() -> Array:
        return by_sample(samples, _distances(forward, samples, distance, by))

    return between_places(samples, lambda i, j: distances()[:, i, j], by)


def between_places(samples: Samples, value: Callable[[int, int], Array], by: str = "block") -> Loss:
    """A loss that adds up `value(i, j)`, (samples,), over the pairs of places that a mask joins."""

    def total(mask: Mask) -> Array:
        pairs = runs(mask) if by == "run" else [(i, i + 1) for i in mask.dropped]
        return sum((value(i, j) for i, j in pairs), np.zeros(samples.count))

    return _loss(samples, total)


def runs(mask: Mask) -> list[tuple[int, int]]:
    """The maximal runs i..j-1 of removed blocks, as (i, j)."""
    starts = [i for i in mask.dropped if i - 1 not in mask.dropped]
    stops = [i + 1 for i in mask.dropped if i + 1 not in mask.dropped]
    return list(zip(starts, stops, strict=True))


def by_sample(samples: Samples, rows: Array) -> Array:
    """Means over the rows of each sample: a window has one, an item one for each choice."""
    ends = np.cumsum([len(unit) for unit in samples.units])
    starts = [0, *ends[:-1]]
    return np.array([rows[start:end].mean(0) for start, end in zip(starts, ends, strict=True)])


def _loss(samples: Samples, value: Callable[[Mask], Array]) -> Loss:
    def terms(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
        for mask in masks:
            started = time.perf_counter()
            found = value(mask).tolist()
            yield mask, found, time.perf_counter() - started

    return Loss(samples.estimate(), terms)


def _distances(forward: Forward, samples: Samples, distance: Distance, by: str) -> Array:
    """(rows, N + 1, N + 1), filled for i < j or, by block, for j = i + 1."""
    from pruning.distributed import collectives
    from pruning.engine.dense_pass import states

    places = forward.n_blocks + 1
    found = np.zeros((len(samples.rows), places, places))
    reach = places if by == "run" else 2
    for lines, hidden in states(forward, samples.rows):
        for line in lines:
            own = [state[line.place, : line.length] for state in hidden]
            for i in range(places):
                for j in range(i + 1, min(places, i + reach)):
                    found[line.row, i, j] = distance(own[i], own[j])
    return collectives.all_sum(found)
