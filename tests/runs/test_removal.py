"""What a cell removes, and the space that it searches."""

from __future__ import annotations

import pytest

from pruning.core.errors import InputError
from pruning.core.mask import Latency, Mask, Removal, Space

COSTS = [1.0, 3.0] * 10  # ten blocks; an MLP is three times as large as attention


def test_whole_blocks_are_counted() -> None:
    removal = Removal(0.2, None, first=1)
    assert removal.counted
    assert removal.space(10) == Space(10, 2, frozenset({0}))
    assert removal.record(removal.space(10), Mask(10, (3, 4))) is None


def test_k_counts_sub_layers_whatever_they_cost() -> None:
    removal = Removal(None, 3, "sublayer")
    assert removal.counted
    space = removal.space(10)
    assert (space.k, space.n_units, space.budget) == (3, 20, None)
    assert len(space.free()) == 20


@pytest.mark.parametrize(("unit", "free"), [("attention", range(2, 20, 2)), ("mlp", range(3, 20, 2))])
def test_one_kind_of_sub_layer_can_be_chosen(unit: str, free: range) -> None:
    space = Removal(None, 3, unit, first=1).space(10)
    assert space.free() == list(free)


def test_a_ratio_of_sub_layers_is_one_of_their_costs() -> None:
    removal = Removal(0.2, None, "sublayer")
    assert not removal.counted
    space = removal.space(10, COSTS)
    for mask in (
        space.drop(0, 1, 2, 3),
        space.drop(1, 3, 0, 2),
        space.drop(*range(0, 16, 2)),
        space.drop(1, 3, 4, 6),
    ):
        assert space.complete(mask), mask
    assert not space.complete(space.drop(1, 3))
    assert not space.complete(space.drop(1, 3, 5))
    record = removal.record(space, space.drop(0, 1, 2, 3))
    assert record is not None
    assert (record["cost"], record["asked"], record["removed"]) == ("parameters", 0.2, 0.2)
    assert record["least"] < sum(record["costs"][:4]) < record["most"]


def test_blocks_can_cost_time() -> None:
    removal = Removal(0.3, None, budget="latency", last=1)
    assert not removal.counted
    space = removal.space(4, [2.0, 1.0, 1.0, 6.0])
    assert space.unit == "block"
    assert space.complete(space.drop(0, 1))
    assert not space.complete(space.drop(1, 2))
    assert 3 not in space.free()


@pytest.mark.parametrize(
    ("removal", "message"),
    [
        (Removal(0.2, None, "sublayers"), r"unknown unit 'sublayers'. Did you mean sublayer"),
        (Removal(0.2, None, "sublayer", "time"), r"unknown budget 'time'.*latency"),
        (Removal(0.2, 3, "sublayer"), "give either ratio or k"),
        (Removal(None, 3, "sublayer", "latency"), "budget=latency and k=3 contradict each other"),
    ],
)
def test_impossible_values_are_refused(removal: Removal, message: str) -> None:
    with pytest.raises(InputError, match=message):
        removal.check()


@pytest.mark.parametrize("name", ["batch", "tokens", "repeats"])
def test_the_input_for_timing_is_checked(name: str) -> None:
    with pytest.raises(InputError, match=f"latency.{name}=0 is too small"):
        Latency(**{name: 0}).check()


def test_a_ratio_out_of_reach_says_what_can_be_reached() -> None:
    with pytest.raises(InputError, match=r"ratio=0.5 .* the units that can be removed are only 0.25 of them"):
        Removal(0.5, None, "attention").space(10, COSTS)
