"""Exchanges on a budget: an MLP against attentions and back, always within the space, and every mask is reached."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pruning.algo._exchange import exchanged, neighbours, walked, within_kind
from pruning.algo._surrogate import draw, fresh, swapped
from pruning.algo.genetic import crossed
from pruning.core.mask import Budget, Mask, Space
from tests.helpers.spaces import sublayer_space

RNG = np.random.default_rng
SPACES = {
    "uniform": sublayer_space(6, 0.25, None, (1, 3) * 6),
    "unequal": sublayer_space(4, 0.4, None, (2, 3, 1, 5, 2, 3, 1.5, 4), first=1),
    "nested masks": Space(3, 3, frozenset(), "sublayer", Budget((1, 3, 1, 3, 1, 3), 4, 5)),
}
UNIFORM = SPACES["uniform"]


@pytest.fixture(params=list(SPACES.values()), ids=list(SPACES))
def space(request: pytest.FixtureRequest) -> Space:
    found: Space = request.param
    return found


def test_an_exchange_stays_in_the_space_and_changes_the_mask(space: Space) -> None:
    rng = RNG(0)
    for mask in space.masks():
        for _ in range(5):
            after = exchanged(mask, space, rng)
            assert after in space
            assert after != mask


def test_a_walk_of_exchanges_reaches_every_mask(space: Space) -> None:
    rng, every = RNG(1), list(space.masks())
    for start in (every[0], every[-1]):
        seen, mask = {start}, start
        for _ in range(200 * len(every)):
            seen.add(mask := exchanged(mask, space, rng))
        assert seen == {*every}


def test_an_mlp_is_exchanged_for_attentions_and_back() -> None:
    rng = RNG(2)
    mlps = UNIFORM.drop(1, 3)
    counts = Counter(len(exchanged(mlps, UNIFORM, rng).dropped) for _ in range(200))
    assert counts[2] > 20, "one MLP for another"
    assert counts[4] > 20, "one MLP for three attentions"
    attentions = UNIFORM.drop(0, 2, 4, 7)
    assert UNIFORM.drop(1, 7) in {exchanged(attentions, UNIFORM, rng) for _ in range(500)}


def test_a_space_of_one_mask_has_no_exchange() -> None:
    single = sublayer_space(6, 0.25, None, (1, 3) * 6, "a")
    mask = next(single.masks())
    assert exchanged(mask, single, RNG(0)) == mask
    assert neighbours(mask, single) == ()


def test_neighbours_are_distinct_masks_with_each_pair_exchanged(space: Space) -> None:
    for mask in space.masks():
        found = neighbours(mask, space)
        assert len({*found}) == len(found)
        assert mask not in found
        assert all(other in space for other in found)
        swaps = {
            space.drop(*({*mask.dropped} - {back}), new)
            for back in mask.dropped
            for new in space.free(mask.dropped)
        }
        assert {swap for swap in swaps if swap in space} <= {*found}


def test_neighbours_are_repaired_in_the_order_of_units() -> None:
    mask = UNIFORM.drop(1, 3)  # MLPs of blocks 0 and 1
    assert UNIFORM.drop(0, 2, 3, 4) in neighbours(mask, UNIFORM), "m0 given back, a0 removed, then a1 and a2"
    assert UNIFORM.drop(0, 1, 2, 10) in neighbours(mask, UNIFORM), "m1 given back, a5 removed, then a0 and a1"


@pytest.mark.parametrize("name", SPACES)
def test_a_mask_that_is_not_taken_is_found_even_if_only_one_is_left(name: str) -> None:
    space = SPACES[name]
    every, rng = list(space.masks()), RNG(3)
    for left in every:
        taken = [mask for mask in every if mask != left]
        assert walked(every[0], taken, space, rng) == left
        assert fresh(every[-1], taken, space, rng) == left


def test_without_steps_the_first_mask_in_order_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruning.algo._exchange.STEPS", 1)
    every = list(UNIFORM.masks())
    assert walked(every[0], every[:7], UNIFORM, RNG(0)) == every[7]


def test_several_swaps_are_exchanges_one_after_the_other() -> None:
    mask = UNIFORM.drop(1, 3)
    rng = RNG(4)
    expected = exchanged(exchanged(mask, UNIFORM, rng), UNIFORM, rng)
    assert swapped(mask, UNIFORM, RNG(4), swaps=2) == expected
    assert swapped(mask, UNIFORM, RNG(4), swaps=0) == mask


def test_draws_are_in_the_space_and_follow_the_weights(space: Space) -> None:
    rng = RNG(5)
    drawn = Counter(draw(space, rng) for _ in range(200))
    assert all(mask in space for mask in drawn)
    assert len(drawn) > 2
    units = space.fitting()
    heavy = np.where(np.arange(len(units)) == len(units) - 1, 50.0, 0.0)
    assert all(units[-1] in draw(space, rng, heavy).dropped for _ in range(20))


def test_a_child_keeps_what_both_parents_remove_and_takes_from_one_parent_first(space: Space) -> None:
    rng, every = RNG(6), list(space.masks())
    for _ in range(100):
        a, b = (every[int(rng.integers(len(every)))] for _ in range(2))
        child = crossed(a, b, space, rng)
        assert child in space
        assert {*a.dropped} & {*b.dropped} <= {*child.dropped}
        others = {*child.dropped} - {*a.dropped} - {*b.dropped}
        inherited = {*child.dropped} - others
        assert not others or not any(
            u not in child.dropped and u in space.fitting(tuple(inherited)) for u in a.dropped
        )


@pytest.mark.parametrize("space", [UNIFORM, Space(6, 4, frozenset({0}), "sublayer")], ids=["budget", "k"])
def test_within_a_kind_attention_is_swapped_for_attention_only(space: Space) -> None:
    rng, found = RNG(7), set[Mask]()
    start = next(mask for mask in space.masks() if len({u % 2 for u in mask.dropped}) == 2)
    for _ in range(100):
        mask = within_kind(start, space, rng, 1)
        (back,), (new,) = ({*start.dropped} - {*mask.dropped}, {*mask.dropped} - {*start.dropped})
        assert back % 2 == new % 2
        assert mask in space
        found.add(mask)
    assert {len({*mask.dropped} - {*start.dropped}) for mask in found} == {1}
    assert len({u % 2 for mask in found for u in {*mask.dropped} - {*start.dropped}}) == 2


def test_a_swap_within_a_kind_respects_the_budget() -> None:
    unequal, rng = SPACES["unequal"], RNG(8)
    for mask in unequal.masks():
        assert within_kind(mask, unequal, rng, 3) in unequal
    assert within_kind(
        Space(2, 2, frozenset(), "sublayer").drop(0, 2), Space(2, 2, unit="sublayer"), rng, 2
    ).dropped == (
        0,
        2,
    )
