"""Criteria: losses that measure how far the hidden state moves between two depths of the dense model.

Each criterion is a loss of masks, so any search can use it. One pass gives the states h_i at all depths.
Depth i is before unit i (a block or sub-layer); depth N is after the last unit and before the final norm.
Removing a run of units i..j-1 joins depth i to depth j. The loss of a mask is a sum, averaged over samples:

    by="block"    sum over removed units i of          distance(i, i + 1)      additive over units
    by="run"      sum over maximal runs i..j-1 of      distance(i, j)          as in Gromov et al. and MI-PRUN
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from pruning.core.mask import Mask
from pruning.objective import Forward, Loss, Samples, Scored, Tensor

Array: TypeAlias = np.ndarray[Any, Any]
# Maps the states (T, D) of one row at two depths, the earlier depth first, to a distance: one number in float64, on
# the device of the states.
Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]
BY = ("block", "run")


def between_states(forward: Forward, samples: Samples, distance: Distance, by: str = "block") -> Loss:
    """A loss that sums distances between states of the dense model, by block or by run."""

    @cache
    def distances(unit: str) -> Array:
        """Distances (samples, N + 1, N + 1) for depths i < j (only j = i + 1 if `by` is "block"); the rest is 0."""
        import torch

        from pruning.engine import collectives
        from pruning.engine.dense_pass import states

        depths = forward.n_units(unit) + 1
        found = np.zeros((len(samples.rows), depths, depths))
        reach = depths if by == "run" else 2
        pairs = [(i, j) for i in range(depths) for j in range(i + 1, min(depths, i + reach))]
        for lines, hidden in states(forward, samples.rows, unit):
            values = []
            for line in lines:
                row_states = [state[line.index, : line.length] for state in hidden]
                values += [distance(row_states[i], row_states[j]) for i, j in pairs]
            of_rows = torch.stack(values).view(len(lines), -1).cpu().numpy()  # one copy for each batch
            earlier, later = zip(*pairs, strict=True)
            for line, of_row in zip(lines, of_rows, strict=True):
                found[line.row, earlier, later] = of_row
        return by_sample(samples, collectives.all_sum(found))

    return between_depths(samples, lambda unit, i, j: distances(unit)[:, i, j], by)


def between_depths(samples: Samples, value: Callable[[str, int, int], Array], by: str) -> Loss:
    """A loss that sums `value(unit, i, j)`, of shape (samples,), over the pairs of depths that a mask joins."""

    def total(mask: Mask) -> Array:
        pairs = runs(mask) if by == "run" else [(i, i + 1) for i in mask.dropped]
        return sum((value(mask.unit, i, j) for i, j in pairs), np.zeros(samples.count))

    return of_masks(samples, total)


def of_masks(samples: Samples, value: Callable[[Mask], Array]) -> Loss:
    """A loss whose terms (samples,) for a mask are `value(mask)`."""

    def terms(masks: Sequence[Mask]) -> Scored:
        for mask in masks:
            started = time.perf_counter()
            values = value(mask).tolist()
            yield mask, values, time.perf_counter() - started

    return Loss(samples.estimate(), terms)


def runs(mask: Mask) -> list[tuple[int, int]]:
    """The maximal runs i..j-1 of removed units, as (i, j)."""
    starts = [i for i in mask.dropped if i - 1 not in mask.dropped]
    stops = [i + 1 for i in mask.dropped if i + 1 not in mask.dropped]
    return list(zip(starts, stops, strict=True))


def by_sample(samples: Samples, rows: Array) -> Array:
    """The mean of the values `rows` over each sample's rows. A window has one row; an item has one row per choice."""
    ends = np.cumsum([len(unit) for unit in samples.units])
    return np.array([rows[a:b].mean(0) for a, b in zip([0, *ends[:-1]], ends, strict=True)])
