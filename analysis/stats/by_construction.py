"""Which objectives make one-shot search exact by construction: those whose loss is a sum over the removed units.

For such an objective every sensible search finds the same mask. That is arithmetic and no finding, so verdicts leave
these objectives out. They are recognised by the scores themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .frames import groups

# The largest error of a sum, relative to the largest rise. Cells compute the states of the model in bfloat16, each
# with its own rounding: in the archived studies, sums of `block_influence` are off by up to 3.8e-4. No cell of an
# objective that does not add up is below 3.8e-3 there. This threshold is between the two.
EXACT = 1e-3
Trace = Sequence[Mapping[str, Any]]


def additive(traces: Iterable[Trace]) -> bool | None:
    """Whether, in all traces, a mask's rise is the sum of its units' rises. None if no mask can be compared."""
    compared = False
    for trace in traces:
        losses = {tuple(score["dropped"]): float(score["loss"]) for score in trace}
        dense = losses.get(())
        if dense is None:
            continue
        single = {mask[0]: loss - dense for mask, loss in losses.items() if len(mask) == 1}
        larger = [mask for mask in losses if len(mask) > 1 and all(unit in single for unit in mask)]
        if larger:
            compared = True
            rises = np.array([losses[mask] - dense for mask in larger])
            sums = np.array([sum(single[unit] for unit in mask) for mask in larger])
            if np.abs(rises - sums).max() > EXACT * np.abs(rises).max():
                return False
    return True if compared else None


def exact_by_construction(cells: pd.DataFrame, traces: Mapping[str, Trace]) -> frozenset[str]:
    """The objectives with additive losses among finished cells."""
    found = set()
    for objective, part in groups(cells, "objective"):
        if additive(traces.get(str(cell), ()) for cell in part["cell"]):
            found.add(str(objective))
    return frozenset(found)
