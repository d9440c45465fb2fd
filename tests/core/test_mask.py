from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.core.errors import InputError
from pruning.core.mask import Mask


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


def sublayers(*dropped: int, n_blocks: int = 4) -> Mask:
    return Mask(n_blocks, dropped, "sublayer")


@st.composite
def sublayer_masks(draw: st.DrawFn) -> Mask:
    n = draw(st.integers(1, 20))
    return Mask(n, tuple(draw(st.lists(st.integers(0, 2 * n - 1), max_size=12))), "sublayer")


def test_a_mask_over_sublayers_has_two_units_per_block() -> None:
    mask = sublayers(5, 0, 1)
    assert (mask.n_units, mask.dropped, mask.kept) == (8, (0, 1, 5), (2, 3, 4, 6, 7))
    assert mask.ratio == 3 / 8
    assert mask.dense == sublayers()
    assert mask.drop(7) == sublayers(0, 1, 5, 7)
    assert mask != Mask(8, (0, 1, 5))


def test_a_sublayer_that_does_not_exist_is_named() -> None:
    with pytest.raises(InputError, match=r"not numbers of sub-layers: for names, write Mask\.parse\(4, 'a3"):
        Mask(4, ("a3", "m4"), "sublayer")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"sub-layers \[8\] do not exist: the model has sub-layers 0 to 7"):
        sublayers(3, 8)


@pytest.mark.parametrize(
    ("dropped", "names"),
    [
        ((), ()),
        ((0,), ("a0",)),
        ((1,), ("m0",)),
        ((2, 3), ("b1",)),
        ((1, 2, 4, 5, 7), ("m0", "a1", "b2", "m3")),
    ],
)
def test_sublayers_are_named_by_kind_and_block(dropped: tuple[int, ...], names: tuple[str, ...]) -> None:
    assert sublayers(*dropped).names() == names
    assert Mask(4, (0, 3)).names() == ("0", "3")


@given(sublayer_masks())
def test_a_mask_over_sublayers_is_the_same_after_json_and_after_its_names_are_read(mask: Mask) -> None:
    assert Mask.from_json(json.loads(json.dumps(mask.to_json()))) == mask
    assert Mask.parse(mask.n_blocks, ",".join(mask.names())).as_sublayers() == mask


@given(sublayer_masks())
def test_blocks_that_are_gone_have_lost_both_parts(mask: Mask) -> None:
    both = [i for i in range(mask.n_blocks) if {2 * i, 2 * i + 1} <= {*mask.dropped}]
    assert list(mask.gone) == both
    whole = mask.as_blocks()
    assert (whole is None) == (len(mask.dropped) > 2 * len(both))
    if whole is not None:
        assert whole.as_sublayers() == mask


@given(masks())
def test_a_mask_over_blocks_is_the_same_over_sublayers(mask: Mask) -> None:
    assert mask.gone == mask.dropped
    assert mask.as_blocks() is mask
    assert mask.as_sublayers().as_blocks() == mask
    assert len(mask.as_sublayers().dropped) == 2 * len(mask.dropped)


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("3,1", Mask(4, (1, 3))),
        ("b3 1", Mask(4, (1, 3))),
        ("a3, m1 ,b0", sublayers(0, 1, 3, 6)),
        ("a2 2", sublayers(4, 5)),
        ("", Mask(4)),
    ],
)
def test_a_list_of_names_is_a_mask(text: str, mask: Mask) -> None:
    assert Mask.parse(4, text) == mask


@pytest.mark.parametrize("text", ["x3", "a", "3-5", "a3;m1", "-1"])
def test_a_list_that_is_none_is_shown_with_one_that_is(text: str) -> None:
    with pytest.raises(InputError, match=r"is not a list of blocks or sub-layers.*a3,m7,b12"):
        Mask.parse(4, text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"n_blocks": 4, "dropped": ["a1"], "unit": "head"},
            "unit='head' of a mask is unknown: choose from block",
        ),
        (
            {"n_blocks": 4, "dropped": ["c1"], "unit": "sublayer"},
            "'c1' names no sub-layer: write a3, m3 or b3",
        ),
        ({"n_blocks": 4, "dropped": ["a9"], "unit": "sublayer"}, r"sub-layers \[18\] do not exist"),
    ],
)
def test_json_that_is_no_mask_over_sublayers_is_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mask.from_json(data)
