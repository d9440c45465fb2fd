"""What each search would cost alone, whichever cell computed the scores that it asked for.

Cells share scores, so the recorded seconds of a cell depend on the order in which the cells ran. Here every mask that
a search asked for is charged the seconds that its evaluation took in the cell that computed it, and the search is
charged its own computation: its recorded seconds minus those of its evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .crossed import Trace, seconds
from .frames import groups
from .grid import SETTING
from .removal import bare

MaskSeconds = Mapping[tuple[int, ...], float]
# Cells with equal values in these columns share scores, whatever they remove.
SHARING = ["whole_model", "n_units", *SETTING]


@dataclass(frozen=True)
class SharedCosts:
    """Seconds per sample to score each mask, and seconds before the first score.

    A criterion needs one pass of the dense model, after which every score is free: `start` is this pass, and the
    masks cost nothing. For other objectives `start` is 0.
    """

    masks: MaskSeconds
    start: float = 0.0

    def of(self, trace: Trace) -> float:
        """The seconds of all evaluations that a search asked for, each mask and sample once."""
        return self.start + sum(self.masks[mask] * samples for mask, samples in scored(trace).items())


def scored(trace: Trace) -> dict[tuple[int, ...], int]:
    """On how many samples a search scored each mask. In a race, many masks are scored on a part of the samples."""
    samples: dict[tuple[int, ...], int] = {}
    for score in trace:
        mask = tuple(score["dropped"])
        samples[mask] = max(samples.get(mask, 0), len(score["samples"]))
    return samples


def shared_costs(cells: pd.DataFrame, traces: Mapping[str, Trace]) -> dict[str, SharedCosts]:
    """For each finished cell, the costs of the masks of its problem. Cells that share scores share the object."""
    costs: dict[str, SharedCosts] = {}
    for _, sharing in groups(cells.assign(whole_model=cells["model"].map(bare)), SHARING):
        known = _criterion(sharing, traces) or SharedCosts(_masks([traces[c] for c in sharing["cell"]]))
        costs |= dict.fromkeys(map(str, sharing["cell"]), known)
    return costs


def _criterion(cells: pd.DataFrame, traces: Mapping[str, Trace]) -> SharedCosts | None:
    """The costs of a criterion: none of its scores needed a pass of its own. None for other objectives."""
    forwards, alone = (cells[name].astype(float) for name in ("block_forwards", "block_forwards_alone"))
    if not ((forwards > 0).any() and (alone == 0).all()):
        return None
    passed = [_spent(traces[cell]) for cell in cells.loc[forwards > 0, "cell"]]
    masks = {tuple(score["dropped"]) for cell in cells["cell"] for score in traces[cell]}
    return SharedCosts(dict.fromkeys(masks, 0.0), float(np.median(passed)))


def _masks(traces: Sequence[Trace]) -> MaskSeconds:
    """Seconds per sample of each mask. A mask that only other studies computed has the mean of the others."""
    paid = seconds(traces)
    known = [value for value in paid.values() if value > 0]
    mean = float(np.mean(known)) if known else 0.0
    return {mask: value or mean for mask, value in paid.items()}


def _spent(trace: Trace) -> float:
    """The seconds that a cell spent on scores. In a race, a line has the seconds of all its mask's samples so far."""
    spent: dict[tuple[int, ...], float] = {}
    for score in trace:
        mask = tuple(score["dropped"])
        spent[mask] = max(spent.get(mask, 0.0), float(score["seconds"]))
    return sum(spent.values())


def alone(cells: pd.DataFrame, traces: Mapping[str, Trace]) -> pd.DataFrame:
    """Columns for finished cells: `seconds_alone`, and `forwards_alone`, block forwards if nothing is shared at all.

    A mask that keeps K blocks needs K block forwards, a sub-layer is half a block; a mask that was scored on a part
    of the samples needs that part of them. A criterion needs one dense pass. `traces` have partial scores, too.
    """
    costs = shared_costs(cells, traces)
    rows = []
    whole = zip(cells["cell"], cells["seconds"], cells["n_blocks"], cells["n_units"], strict=True)
    for cell, recorded, n_blocks, n_units in whole:
        trace, cost = traces[str(cell)], costs[str(cell)]
        own = max(0.0, float(recorded) - _spent(trace))
        samples = scored(trace)
        whole_count = max(samples.values(), default=1)
        kept = sum((n_units - len(m)) * n / whole_count for m, n in samples.items()) * n_blocks / n_units
        rows.append([cost.of(trace) + own, float(n_blocks) if cost.start else kept])
    return pd.DataFrame(rows, cells.index, columns=["seconds_alone", "forwards_alone"])
