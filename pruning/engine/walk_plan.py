"""Decide how the masks of one request are walked: how many at a time, and which states are kept between walks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.engine.beginnings import affordable_depths, count_states, most_edges
from pruning.engine.pace import Pace

ALONE = 32  # masks per walk if no states can be kept between walks
FILLS = 16  # masks per walk for each branch of a filled pass: at each unit, at most one pass is not full
# A request for more masks than this for each unit, such as all pairs, is seldom followed by a related one.
LARGE = 8


@dataclass(frozen=True)
class Sizes:
    """Bytes: `room` for all states, `walked` for one mask's state in a walk, `kept` for a state on all batches.

    `filled` is the number of branches that passes are filled up to; 1 if they are not.
    """

    room: float
    walked: int
    kept: int
    filled: int = 1


@dataclass(frozen=True)
class Plan:
    """At most `capacity` masks per walk. States at `depths` are kept for the next request.

    If `continues` is true, a walk starts at states of the one before. The number of masks per walk then changes no
    cost, unless passes are `filled` up to several branches.
    """

    capacity: int
    depths: range
    continues: bool
    filled: int = 1

    def size(self, pace: Pace) -> int:
        """The number of masks in the next walk.

        If it changes the cost, it does not depend on the clock, so that block forwards do not, either.
        """
        if self.filled > 1:
            return min(self.capacity, FILLS * self.filled)
        return min(self.capacity, pace.size() if self.continues else ALONE)


def make_plan(leaving: Sequence[int], n_units: int, sizes: Sizes) -> Plan:
    """The plan for masks in order, of which `leaving` are the forks. Half of the room is for states that are kept."""
    edge = most_edges(leaving) * (sizes.kept + sizes.walked)
    continues = edge <= sizes.room / 2
    depths = range(0)
    if continues and 0 < len(leaving) < LARGE * n_units:
        depths = affordable_depths(leaving, n_units, sizes.kept, sizes.room / 2 - edge)
    held = (edge if continues else 0) + sizes.kept * count_states(leaving, depths)
    capacity = max(1, int(max(0.0, sizes.room - held) // sizes.walked))
    return Plan(capacity, depths, continues, sizes.filled)
