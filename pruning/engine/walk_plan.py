"""Decide how the masks of one request are walked: how many at a time, and which states are kept between walks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.engine.beginnings import affordable_depths, count_states, most_edges
from pruning.engine.pace import Pace

ALONE = 32  # masks per walk if no states can be kept between walks
# A request for more masks than this for each unit, such as all pairs, is seldom followed by a related one.
LARGE = 8


@dataclass(frozen=True)
class Sizes:
    """Bytes: `room` for all states, `walked` for one mask's state in a walk, `kept` for a state on all batches."""

    room: float
    walked: int
    kept: int


@dataclass(frozen=True)
class Plan:
    """At most `capacity` masks per walk. States at `depths` are kept for the next request.

    If `continues` is true, a walk starts at states of the one before. The number of masks per walk then changes no
    cost.
    """

    capacity: int
    depths: range
    continues: bool

    def size(self, pace: Pace) -> int:
        """The number of masks in the next walk.

        Without states from the walk before, it does not depend on the clock, so that block forwards do not, either.
        """
        return min(self.capacity, pace.size() if self.continues else ALONE)


def make_plan(leaving: Sequence[int], n_units: int, sizes: Sizes) -> Plan:
    """The plan for masks in order, of which `leaving` are the forks. Half of the room is for states that are kept."""
    edge = most_edges(leaving) * (sizes.kept + sizes.walked)
    continues = edge <= sizes.room / 2
    depths = range(0)
    if continues and 0 < len(leaving) < LARGE * n_units:
        depths = affordable_depths(leaving, n_units, sizes.kept, sizes.room / 2 - edge)
    held = (edge if continues else 0) + sizes.kept * count_states(leaving, depths)
    return Plan(max(1, int(max(0.0, sizes.room - held) // sizes.walked)), depths, continues)
