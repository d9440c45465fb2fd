"""Spaces: what is in them, and that each shortcut equals a look at every set of units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.core.errors import InputError
from pruning.core.mask import Budget, Mask, SearchRecord, Space, space_of
from tests.helpers.spaces import sublayer_space

UNEQUAL = sublayer_space(4, 0.4, None, (2, 3, 1, 5, 2, 3, 1.5, 4), first=1)
SPACES = {
    "blocks": Space(7, 3, frozenset({0})),
    "sub-layers": Space(4, 3, frozenset({0, 5}), "sublayer"),
    "a budget": sublayer_space(4, 0.5, None, (1, 3) * 4),
    "MLPs": sublayer_space(4, 0.4, None, (1, 3) * 4, "m"),
    "unequal": UNEQUAL,
    "a wide budget": Space(3, 3, frozenset(), "sublayer", Budget((1, 3, 1, 3, 1, 3), 4, 5)),
}


@pytest.fixture(params=list(SPACES.values()), ids=list(SPACES))
def chosen(request: pytest.FixtureRequest) -> Space:
    found: Space = request.param
    return found


def subsets(units: list[int]) -> Iterator[tuple[int, ...]]:
    return (s for n in range(len(units) + 1) for s in combinations(units, n))


def members(space: Space) -> list[tuple[int, ...]]:
    """The masks of a space, by a look at every set of units."""
    return sorted(s for s in subsets(space.free()) if space.drop(*s) in space)


def test_masks_are_all_masks_in_order(chosen: Space) -> None:
    assert [mask.dropped for mask in chosen.masks()] == members(chosen)
    assert chosen.size == len(members(chosen))
    assert max(map(len, members(chosen))) == chosen.k


def test_a_unit_fits_if_some_mask_removes_it_and_the_others(chosen: Space) -> None:
    every = [{*mask} for mask in members(chosen)]
    for dropped in subsets(chosen.free()):
        fits = [u for u in chosen.free(dropped) if any({*dropped, u} <= mask for mask in every)]
        assert chosen.fitting(dropped) == fits
        assert chosen.extendable(chosen.drop(*dropped)) == any({*dropped} <= mask for mask in every)


@given(st.data())
def test_filling_takes_the_first_units_that_fit(data: st.DataObject) -> None:
    chosen = data.draw(st.sampled_from(list(SPACES.values())))
    order = data.draw(st.permutations(range(chosen.n_units)))
    start = data.draw(st.sampled_from(members(chosen)))
    start = start[: data.draw(st.integers(0, len(start)))]
    mask = chosen.drop(*start)
    for unit in order:
        if not chosen.complete(mask) and unit in chosen.fitting(mask.dropped):
            mask = mask.drop(unit)
    assert chosen.filled(start, order) == mask
    assert mask in chosen


def test_a_partial_order_may_leave_a_mask_incomplete() -> None:
    assert SPACES["a budget"].filled((0,), [2]).dropped == (0, 2)
    assert SPACES["blocks"].filled((), [0, 5]).dropped == (5,), "block 0 is protected"


def test_masks_of_other_models_and_masks_with_protected_units_are_not_in_the_space() -> None:
    assert Mask(7, (1, 2, 3)) in SPACES["blocks"]
    assert Mask(7, (0, 1, 2)) not in SPACES["blocks"]
    assert Mask(8, (1, 2, 3)) not in SPACES["blocks"]
    assert Mask(7, (1, 2, 3), "sublayer") not in SPACES["blocks"]
    assert Mask(4, (1, 2, 3), "sublayer") not in UNEQUAL, "block 0 is protected"


def test_costs_are_counts_without_a_budget_and_shares_with_one() -> None:
    assert SPACES["blocks"].cost(1, 4) == 2
    assert SPACES["blocks"].per_cost(0.6, 3) == 0.6
    assert SPACES["a budget"].cost(0, 1) == 625 + 1875
    assert SPACES["a budget"].per_cost(0.6, 1) == 0.6 / 1875
    assert [SPACES["a budget"].kind(u) for u in (0, 3)] == ["attention", "mlp"]
    assert SPACES["blocks"].kind(3) == "block"


def test_the_space_of_a_finished_search_knows_its_masks() -> None:
    for chosen in (SPACES["a budget"], Space(4, 3, frozenset(), "sublayer"), Space(7, 3)):
        record: dict[str, object] = {"k": chosen.k}
        if chosen.budget is not None:
            budget = chosen.budget
            record["budget"] = {"costs": list(budget.costs), "least": budget.least, "most": budget.most}
        found: SearchRecord = record  # type: ignore[assignment]
        assert space_of(next(chosen.masks()), found) == chosen


def test_a_space_counts_its_masks_and_lists_what_is_free() -> None:
    chosen = Space(8, 3, frozenset({0, 7}))
    assert chosen.size == math.comb(6, 3)
    assert chosen.free() == [1, 2, 3, 4, 5, 6]
    assert chosen.free((2, 5)) == [1, 3, 4, 6]
    assert chosen.drop(5, 2) == Mask(8, (2, 5))
    assert chosen.dense == Mask(8)


@pytest.mark.parametrize("k", [0, -1, 8, 9])
def test_a_space_refuses_a_k_that_no_model_of_its_size_has(k: int) -> None:
    with pytest.raises(InputError, match=rf"k = {k} .* of 8: choose k from 1 to 7"):
        Space(8, k)


def test_a_space_refuses_more_than_the_unprotected_blocks() -> None:
    assert Space(8, 5, frozenset({0, 1, 7})).size == 1
    with pytest.raises(InputError, match=r"k = 6 is more than the 5 unprotected blocks of 8.*protect\.first"):
        Space(8, 6, frozenset({0, 1, 7}))
