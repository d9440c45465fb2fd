from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.space import Space, block_count, check_size, space


@st.composite
def masks(draw: st.DrawFn, n_blocks: int | None = None) -> Mask:
    n = n_blocks or draw(st.integers(1, 40))
    return Mask(n, tuple(draw(st.lists(st.integers(0, n - 1), max_size=12))))


@pytest.mark.parametrize("given_as", [(3, 1, 4), (1, 3, 4), (4, 4, 3, 1, 1)])
def test_equal_sets_are_equal_masks_however_they_were_given(given_as: tuple[int, ...]) -> None:
    mask = Mask(6, given_as)
    assert mask.dropped == (1, 3, 4)
    assert mask == Mask(6, (1, 3, 4))
    assert len({mask, Mask(6, (1, 3, 4))}) == 1


def test_masks_of_other_sizes_or_blocks_differ() -> None:
    assert len({Mask(6, (1,)), Mask(7, (1,)), Mask(6, (2,)), Mask(6)}) == 4


@pytest.mark.parametrize("dropped", [(6,), (-1,), (0, 9, 6)])
def test_blocks_that_do_not_exist_are_named_with_those_that_do(dropped: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        Mask(6, dropped)
    assert str([i for i in sorted(dropped) if not 0 <= i < 6]) in str(caught.value)
    assert "0 to 5" in str(caught.value)


@given(masks())
def test_kept_and_dropped_share_out_the_blocks(mask: Mask) -> None:
    assert sorted(mask.kept + mask.dropped) == list(range(mask.n_blocks))
    assert mask.ratio == pytest.approx(1 - len(mask.kept) / mask.n_blocks)


@given(masks())
def test_json_gives_the_mask_back(mask: Mask) -> None:
    assert Mask.from_json(json.loads(json.dumps(mask.to_json()))) == mask


@pytest.mark.parametrize(
    "data", [{}, {"n_blocks": 3}, {"dropped": []}, {"n_blocks": "x", "dropped": []}, [1]]
)
def test_json_that_is_no_mask_is_shown(data: object) -> None:
    with pytest.raises(InputError) as caught:
        Mask.from_json(data)  # type: ignore[arg-type]
    assert repr(data) in str(caught.value)
    assert "n_blocks and dropped" in str(caught.value)


def test_json_with_a_block_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match=r"\[7\]"):
        Mask.from_json({"n_blocks": 4, "dropped": [1, 7]})


@given(masks(12), masks(12))
def test_jaccard_is_the_overlap_of_the_removed_sets(a: Mask, b: Mask) -> None:
    overlap = a.jaccard(b)
    assert overlap == b.jaccard(a)
    assert (overlap == 1) == (a == b)
    union = len(set(a.dropped) | set(b.dropped))
    assert round(overlap * union) == len(set(a.dropped) & set(b.dropped))


def test_jaccard_of_known_sets() -> None:
    assert Mask(9, (1, 2, 3)).jaccard(Mask(9, (2, 3, 4))) == pytest.approx(2 / 4)
    assert Mask(9).jaccard(Mask(9)) == 1
    assert Mask(9, (1,)).jaccard(Mask(9)) == 0


@given(masks(12), st.integers(0, 11))
def test_drop_adds_blocks_and_leaves_the_mask_as_it_was(mask: Mask, index: int) -> None:
    before = mask.dropped
    assert set(mask.drop(index).dropped) == {*before, index}
    assert mask.dropped == before


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
    if expected:
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
