"""The prior, random masks, and moves: always within the space, and every mask is reached."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pruning.algo._moves import (
    draw,
    fresh,
    log_weights,
    neighbours,
    scale,
    swapped,
    within_kind,
)
from pruning.algo.genetic import crossed
from pruning.core.mask import Budget, Space
from tests.helpers.spaces import sublayer_space, swaps

RNG = np.random.default_rng
BUDGETS = {
    "uniform": sublayer_space(5, 0.3, None, (1, 3) * 5),
    "unequal": sublayer_space(4, 0.4, None, (2, 3, 1, 5, 2, 3, 1.5, 4), first=1),
    "nested masks": Space(3, 3, frozenset(), "sublayer", Budget((1, 3, 1, 3, 1, 3), 4, 5)),
}
SPACES = BUDGETS | {"count": Space(7, 3, frozenset({6}))}
UNIFORM = sublayer_space(6, 0.25, None, (1, 3) * 6)


@pytest.fixture(params=list(SPACES.values()), ids=list(SPACES))
def space(request: pytest.FixtureRequest) -> Space:
    found: Space = request.param
    return found


def test_a_walk_changes_the_mask_at_each_step_and_reaches_every_mask(space: Space) -> None:
    rng, every = RNG(1), list(space.masks())
    seen, mask = {every[0]}, every[0]
    for _ in range(100 * len(every)):
        after = swapped(mask, space, rng)
        assert after in space
        assert after != mask
        seen.add(mask := after)
    assert seen == {*every}


def test_neighbours_are_distinct_masks_and_include_each_swap(space: Space) -> None:
    for mask in space.masks():
        found = neighbours(mask, space)
        assert len({*found}) == len(found)
        assert mask not in found
        assert all(other in space for other in found)
        assert swaps(mask, space) <= {*found}
        assert space.budget is not None or swaps(mask, space) == {*found}


def test_a_mask_that_is_not_taken_is_found_even_if_only_one_is_left(space: Space) -> None:
    every, rng = list(space.masks()), RNG(3)
    for left in every[::7]:
        assert fresh(every[-1], [mask for mask in every if mask != left], space, rng) == left


def test_a_swap_of_too_many_blocks_swaps_as_many_as_possible() -> None:
    space, rng = Space(6, 4), RNG(0)
    assert {4, 5} <= {*swapped(space.drop(0, 1, 2, 3), space, rng, swaps=9).dropped}
    full = Space(3, 2, frozenset({1}))
    assert swapped(full.drop(0, 2), full, rng).dropped == (0, 2)


def test_draws_are_in_the_space_and_follow_the_weights(space: Space) -> None:
    rng, units = RNG(5), space.fitting()
    drawn = Counter(draw(space, rng) for _ in range(200))
    assert all(mask in space for mask in drawn)
    assert len(drawn) > 2
    heavy = np.where(np.arange(len(units)) == len(units) - 1, 50.0, 0.0)
    assert all(units[-1] in draw(space, rng, heavy).dropped for _ in range(20))


def test_the_prior_is_exponential_in_the_losses_and_never_fails() -> None:
    losses = np.array([0.0, 1.0, 2.0, 1e9])
    assert scale(losses) == 1.5
    assert scale(np.ones(4)) == 1.0
    weights, rng = log_weights(losses, temperature=1.0), RNG(0)
    counts = np.bincount([draw(Space(4, 1), rng, weights).dropped[0] for _ in range(4000)], minlength=4)
    expected = np.exp(-losses / 1.5) / np.exp(-losses / 1.5).sum()
    assert counts / 4000 == pytest.approx(expected, abs=0.03)
    assert draw(Space(5, 4, frozenset({0})), rng, weights).dropped == (1, 2, 3, 4)


def test_a_child_keeps_what_both_parents_remove_and_takes_from_one_parent_first(space: Space) -> None:
    rng, every = RNG(6), list(space.masks())
    for _ in range(100):
        a, b = (every[int(rng.integers(len(every)))] for _ in range(2))
        child = crossed(a, b, space, rng)
        assert child in space
        assert {*a.dropped} & {*b.dropped} <= {*child.dropped}
        others = {*child.dropped} - {*a.dropped} - {*b.dropped}
        inherited = tuple({*child.dropped} - others)
        assert not others or space.budget is not None
        assert not others or not {*a.dropped} & {*space.fitting(inherited)} - {*child.dropped}


@pytest.mark.parametrize("space", [UNIFORM, Space(6, 4, frozenset({0}), "sublayer")], ids=["budget", "k"])
def test_within_a_kind_attention_is_swapped_for_attention_only(space: Space) -> None:
    rng, kinds = RNG(7), set[int]()
    start = next(mask for mask in space.masks() if len({u % 2 for u in mask.dropped}) == 2)
    for _ in range(100):
        mask = within_kind(start, space, rng, 1)
        (back,), (new,) = ({*start.dropped} - {*mask.dropped}, {*mask.dropped} - {*start.dropped})
        assert back % 2 == new % 2
        assert mask in space
        kinds.add(new % 2)
    assert kinds == {0, 1}
