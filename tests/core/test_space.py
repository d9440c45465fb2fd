"""Spaces: what is in them, and that each shortcut equals a look at every set of units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.search_record import SearchRecord
from pruning.core.space import Space, block_count, check_size, space, space_of, sublayer_space
from pruning.core.unit_costs import Budget

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


def test_a_ratio_of_costs_is_met_as_closely_as_the_smallest_unit_allows() -> None:
    for ratio in (0.1, 0.25, 0.4, 0.62):
        chosen = sublayer_space(8, ratio, None, (1, 3) * 8)
        for mask in (chosen.filled((), range(16)), chosen.filled((), range(15, -1, -1))):
            assert abs(chosen.cost(*mask.dropped) / 10_000 - ratio) <= 0.5 / 32 + 1e-4


def test_kinds_and_ends_protect_the_other_sublayers() -> None:
    assert sublayer_space(4, None, 2, (1, 3) * 4, "a", first=1).free() == [2, 4, 6]
    assert sublayer_space(4, 0.4, None, (1, 3) * 4, "m", last=1).free() == [1, 3, 5]


@pytest.mark.parametrize(
    ("ratio", "kinds", "why"),
    [(0.3, "a", "only 0.25 of them"), (0.05, "m", "no set of units comes as close as 0.094")],
)
def test_a_ratio_that_cannot_be_met_is_refused(ratio: float, kinds: str, why: str) -> None:
    with pytest.raises(InputError, match=f"ratio={ratio:g} of the blocks' costs cannot be removed: .*{why}"):
        sublayer_space(4, ratio, None, (1, 3) * 4, kinds)


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


@pytest.mark.parametrize(
    ("n_blocks", "ratio", "k"), [(32, 0.1, 3), (32, 0.25, 8), (30, 0.2, 6), (6, 0.09, 1)]
)
def test_a_ratio_is_rounded_to_the_nearest_number_of_blocks(n_blocks: int, ratio: float, k: int) -> None:
    assert block_count(n_blocks, ratio, None) == k


@given(st.integers(1, 200), st.floats(0.001, 0.999))
def test_a_ratio_means_round_of_ratio_times_blocks_or_an_error(n_blocks: int, ratio: float) -> None:
    expected = round(ratio * n_blocks)
    if expected == n_blocks > 1:
        with pytest.raises(InputError, match=f"of {n_blocks} blocks rounds to all of them"):
            block_count(n_blocks, ratio, None)
    elif expected:
        assert block_count(n_blocks, ratio, None) == expected
    else:
        with pytest.raises(InputError, match=f"of {n_blocks} blocks rounds to no block: .*k=1"):
            block_count(n_blocks, ratio, None)


@pytest.mark.parametrize("k", [1, 7])
def test_k_is_taken_as_it_is(k: int) -> None:
    assert block_count(32, None, k) == k


def test_neither_ratio_nor_k_is_an_error() -> None:
    with pytest.raises(InputError, match=r"either ratio or k.*neither is given"):
        check_size(None, None)


def test_both_ratio_and_k_are_an_error_that_names_them() -> None:
    with pytest.raises(InputError, match=r"either ratio or k.*ratio=0\.2, k=3"):
        check_size(0.2, 3)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, math.nan, math.inf])
def test_a_ratio_outside_of_its_range_is_named(ratio: float) -> None:
    with pytest.raises(InputError, match=f"ratio={ratio:g} .* above 0 and below 1"):
        block_count(32, ratio, None)


@pytest.mark.parametrize("k", [0, -3])
def test_a_k_that_removes_nothing_is_named(k: int) -> None:
    with pytest.raises(InputError, match=f"k={k} .* 1 or more"):
        block_count(32, None, k)


def test_the_smallest_ratio_that_the_message_offers_is_accepted() -> None:
    with pytest.raises(InputError, match=r"ratio=0\.01 of 12 .* at least 0\.083"):
        block_count(12, 0.01, None)
    assert block_count(12, 0.083, None) == 1


@pytest.mark.parametrize("n_blocks", [2, 3, 6, 7, 126])
def test_the_largest_ratio_that_the_message_offers_is_accepted(n_blocks: int) -> None:
    with pytest.raises(InputError, match="rounds to all of them: choose at most") as refused:
        block_count(n_blocks, 0.999, None)
    offered = float(str(refused.value).partition("at most ")[2].partition(",")[0])
    assert block_count(n_blocks, offered, None) == n_blocks - 1


def test_space_protects_both_ends() -> None:
    chosen = space(10, None, 4, first=2, last=1)
    assert chosen == Space(10, 4, frozenset({0, 1, 9}))
    assert space(10, 0.4, None) == Space(10, 4)


@pytest.mark.parametrize(("first", "last"), [(5, 5), (10, 0), (0, 12)])
def test_protection_that_leaves_no_block_is_named(first: int, last: int) -> None:
    with pytest.raises(InputError, match=rf"protect\.first={first} and protect\.last={last} .* of 10"):
        space(10, None, 1, first, last)


@pytest.mark.parametrize(("first", "last"), [(-1, 0), (0, -2)])
def test_negative_protection_is_named(first: int, last: int) -> None:
    with pytest.raises(
        InputError, match=rf"protect\.first={first} and protect\.last={last}: neither may be neg"
    ):
        space(10, None, 2, first, last)
