"""What is kept between walks fits into the room, and block forwards do not depend on the clock."""

from __future__ import annotations

import pytest

from pruning.core.mask import Mask
from pruning.engine.batching import Pace
from pruning.engine.prefix_tree import ALONE, FILLS, Sizes, forks, make_plan

SINGLES = forks([Mask(6, (block,)) for block in range(6)])


@pytest.mark.parametrize("room", [0, 10, 39, 40, 100, 250, 500, 10_000])
def test_what_is_held_and_walked_fits_into_the_room(room: int) -> None:
    plan = make_plan(SINGLES, 6, Sizes(room, walked=5, kept=10))
    held = 10 * sum(depth + 1 for depth in plan.depths) + (15 if plan.continues else 0)
    assert held <= room / 2
    assert plan.capacity == 1 or held + 5 * plan.capacity <= room
    assert plan.continues == (room >= 30)


def test_without_room_the_size_of_a_walk_does_not_follow_the_clock() -> None:
    slow, fast = Pace(1.0), Pace(1.0)
    slow.note(4, 100.0)
    fast.note(4, 0.0001)
    alone, going_on = (make_plan(SINGLES, 6, Sizes(room, 1, 1000)) for room in (900, 10_000))
    assert alone.size(slow) == alone.size(fast) == ALONE
    assert going_on.size(slow) == 1 < going_on.size(fast)


def test_walks_of_filled_passes_do_not_follow_the_clock() -> None:
    slow, fast = Pace(1.0), Pace(1.0)
    slow.note(4, 100.0)
    fast.note(4, 0.0001)
    filled, small = (make_plan(SINGLES, 6, Sizes(room, 1, 1, filled=4)) for room in (10_000, 50))
    assert filled.size(slow) == filled.size(fast) == FILLS * 4
    assert small.size(slow) == small.size(fast) == small.capacity < FILLS * 4


def test_states_of_a_large_request_are_not_kept_for_the_next_one() -> None:
    masks = [Mask(30, (a, b)) for a in range(30) for b in range(a)]
    todo = sorted(masks, key=lambda mask: [i not in mask.dropped for i in range(30)])
    few, many = (make_plan(forks(some), 30, Sizes(1e9, 1, 1)) for some in (todo[:200], todo))
    assert (len(few.depths), len(many.depths)) == (29, 0)
    assert few.continues
    assert many.continues
