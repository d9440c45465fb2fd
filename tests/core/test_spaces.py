"""Spaces are built from a ratio or a number of units; values that no model can meet are refused in words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.core.errors import InputError
from pruning.core.mask import Removal, Space
from tests.helpers.spaces import sublayer_space


def blocks_of(n_blocks: int, ratio: float | None, k: int | None) -> int:
    return Removal(ratio, k).space(n_blocks).k


@pytest.mark.parametrize(
    ("n_blocks", "ratio", "k"), [(32, 0.1, 3), (32, 0.25, 8), (30, 0.2, 6), (6, 0.09, 1)]
)
def test_a_ratio_is_rounded_to_the_nearest_number_of_blocks(n_blocks: int, ratio: float, k: int) -> None:
    assert blocks_of(n_blocks, ratio, None) == k


@given(st.integers(1, 200), st.floats(0.001, 0.999))
def test_a_ratio_means_round_of_ratio_times_blocks_or_an_error(n_blocks: int, ratio: float) -> None:
    expected = round(ratio * n_blocks)
    if expected == n_blocks > 1:
        with pytest.raises(InputError, match=f"of {n_blocks} blocks rounds to all of them"):
            blocks_of(n_blocks, ratio, None)
    elif expected:
        assert blocks_of(n_blocks, ratio, None) == expected
    else:
        with pytest.raises(InputError, match=f"of {n_blocks} blocks rounds to no block: .*k=1"):
            blocks_of(n_blocks, ratio, None)


@pytest.mark.parametrize("k", [1, 7])
def test_k_is_taken_as_it_is(k: int) -> None:
    assert blocks_of(32, None, k) == k


def test_neither_ratio_nor_k_is_an_error() -> None:
    with pytest.raises(InputError, match=r"either ratio or k.*neither is given"):
        Removal(None, None).check()


def test_both_ratio_and_k_are_an_error_that_names_them() -> None:
    with pytest.raises(InputError, match=r"either ratio or k.*ratio=0\.2, k=3"):
        Removal(0.2, 3).check()


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, math.nan, math.inf])
def test_a_ratio_outside_of_its_range_is_named(ratio: float) -> None:
    with pytest.raises(InputError, match=f"ratio={ratio:g} .* above 0 and below 1"):
        blocks_of(32, ratio, None)


@pytest.mark.parametrize("k", [0, -3])
def test_a_k_that_removes_nothing_is_named(k: int) -> None:
    with pytest.raises(InputError, match=f"k={k} .* 1 or more"):
        blocks_of(32, None, k)


def test_the_smallest_ratio_that_the_message_offers_is_accepted() -> None:
    with pytest.raises(InputError, match=r"ratio=0\.01 of 12 .* at least 0\.083"):
        blocks_of(12, 0.01, None)
    assert blocks_of(12, 0.083, None) == 1


@pytest.mark.parametrize("n_blocks", [2, 3, 6, 7, 126])
def test_the_largest_ratio_that_the_message_offers_is_accepted(n_blocks: int) -> None:
    with pytest.raises(InputError, match="rounds to all of them: choose at most") as refused:
        blocks_of(n_blocks, 0.999, None)
    offered = float(str(refused.value).partition("at most ")[2].partition(",")[0])
    assert blocks_of(n_blocks, offered, None) == n_blocks - 1


def test_space_protects_both_ends() -> None:
    chosen = Removal(None, 4, first=2, last=1).space(10)
    assert chosen == Space(10, 4, frozenset({0, 1, 9}))
    assert Removal(0.4, None).space(10) == Space(10, 4)


@pytest.mark.parametrize(("first", "last"), [(5, 5), (10, 0), (0, 12)])
def test_protection_that_leaves_no_block_is_named(first: int, last: int) -> None:
    with pytest.raises(InputError, match=rf"protect\.first={first} and protect\.last={last} .* of 10"):
        Removal(None, 1, first=first, last=last).space(10)


@pytest.mark.parametrize(("first", "last"), [(-1, 0), (0, -2)])
def test_negative_protection_is_named(first: int, last: int) -> None:
    with pytest.raises(
        InputError, match=rf"protect\.first={first} and protect\.last={last}: neither may be neg"
    ):
        Removal(None, 2, first=first, last=last).space(10)


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
