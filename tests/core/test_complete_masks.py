from __future__ import annotations

import itertools

from pruning.core.mask import Budget, Removal, Space, is_complete
from tests.helpers.spaces import sublayer_space

RATIO = 0.5
SPACE = sublayer_space(3, RATIO, None, [1, 3, 1, 3, 1, 3])


def every(space: Space) -> list[tuple[int, ...]]:
    units = space.free()
    return [mask for size in range(len(units) + 1) for mask in itertools.combinations(units, size)]


def test_a_mask_is_complete_by_its_record_if_it_is_in_the_space() -> None:
    budget = Removal(RATIO, None, "sublayer").record(SPACE, SPACE.drop(1, 3))
    complete = [mask for mask in every(SPACE) if is_complete(mask, 99, budget)]
    assert complete == [mask for mask in every(SPACE) if SPACE.drop(*mask) in SPACE]
    assert len({len(mask) for mask in complete}) > 1, "masks of one problem differ in their number of units"
    assert budget is not None
    assert Budget.recorded(budget).count(SPACE.free()) == len(complete) == SPACE.size


def test_without_a_budget_units_are_counted() -> None:
    assert [mask for mask in every(SPACE) if is_complete(mask, 2, None)] == [
        mask for mask in every(SPACE) if len(mask) == 2
    ]
