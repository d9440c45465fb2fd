"""Masks, and the spaces of masks that remove k units or what a budget asks for.

Each shortcut of a space or a budget must equal a look at every set of units.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.core.errors import InputError
from pruning.core.mask import (
    SCALE,
    Budget,
    Latency,
    Mask,
    Removal,
    SearchRecord,
    Space,
    is_complete,
    space_of,
)
from tests.helpers.spaces import sublayer_space


def sublayers(*dropped: int, n_blocks: int = 4) -> Mask:
    return Mask(n_blocks, dropped, "sublayer")


@st.composite
def masks(draw: st.DrawFn, n_blocks: int | None = None, unit: str | None = None) -> Mask:
    n, unit = n_blocks or draw(st.integers(1, 40)), unit or draw(st.sampled_from(["block", "sublayer"]))
    units = n if unit == "block" else 2 * n
    return Mask(n, tuple(draw(st.lists(st.integers(0, units - 1), max_size=12))), unit)


# Masks.


@pytest.mark.parametrize("given_as", [(3, 1, 4), (1, 3, 4), (4, 4, 3, 1, 1)])
def test_equal_sets_are_equal_masks_however_they_were_given(given_as: tuple[int, ...]) -> None:
    assert Mask(6, given_as).dropped == (1, 3, 4)
    assert len({Mask(6, given_as), Mask(6, (1, 3, 4))}) == 1
    assert len({Mask(6, (1,)), Mask(7, (1,)), Mask(6, (2,)), Mask(6), Mask(6, (1,), "sublayer")}) == 5


@given(masks())
def test_a_mask_comes_back_from_json_and_from_its_names(mask: Mask) -> None:
    assert Mask.from_json(json.loads(json.dumps(mask.to_json()))) == mask
    again = Mask.parse(mask.n_blocks, ",".join(mask.names()))
    assert again.as_sublayers() == mask.as_sublayers()
    assert sorted(mask.kept + mask.dropped) == list(range(mask.n_units))
    assert mask.ratio == pytest.approx(1 - len(mask.kept) / mask.n_units)


@given(masks(12, "block"), masks(12, "block"))
def test_jaccard_is_the_overlap_of_the_removed_sets(a: Mask, b: Mask) -> None:
    union = len(set(a.dropped) | set(b.dropped))
    assert a.jaccard(b) == b.jaccard(a)
    assert (a.jaccard(b) == 1) == (a == b)
    assert round(a.jaccard(b) * union) == len(set(a.dropped) & set(b.dropped))
    assert a.drop(*b.dropped).jaccard(a) == (len(a.dropped) / union if union else 1)


@given(masks())
def test_blocks_that_are_gone_have_lost_both_parts(mask: Mask) -> None:
    parts = mask.as_sublayers()
    both = [i for i in range(mask.n_blocks) if {2 * i, 2 * i + 1} <= {*parts.dropped}]
    assert list(mask.gone) == list(parts.gone) == both
    whole = mask.as_blocks()
    assert (whole is None) == (len(parts.dropped) > 2 * len(both))
    assert whole is None or whole.as_sublayers() == parts


def test_a_list_of_names_is_a_mask() -> None:
    for text in ("3,1", "b3 1"):
        assert Mask.parse(4, text) == Mask(4, (1, 3))
    assert Mask.parse(4, "a3, m1 ,b0") == sublayers(0, 1, 3, 6)
    assert (Mask.parse(4, "a2 2"), Mask.parse(4, "")) == (sublayers(4, 5), Mask(4))
    assert sublayers(1, 2, 4, 5, 7).names() == ("m0", "a1", "b2", "m3")


def from_json(**data: Any) -> Callable[[], object]:
    return lambda: Mask.from_json(data)


def parsed(text: str) -> Callable[[], object]:
    return lambda: Mask.parse(4, text)


def spaced(
    n_blocks: int, *given: Any, costs: Sequence[float] | None = None, **more: Any
) -> Callable[[], object]:
    return lambda: Removal(*given, **more).space(n_blocks, costs)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "block above": (lambda: Mask(6, (0, 9, 6)), r"\[6, 9\] .* 0 to 5"),
    "block below": (lambda: Mask(6, (-1,)), r"\[-1\] .* 0 to 5"),
    "sub-layer": (lambda: sublayers(3, 8), r"\[8\] .* 0 to 7"),
    "names": (lambda: Mask(4, ("a3", "m4"), "sublayer"), r"Mask\.parse\(4, 'a3"),  # type: ignore[arg-type]
    "no mask": (lambda: Mask.from_json([1]), r"\[1\] .*n_blocks and dropped"),  # type: ignore[arg-type]
    "no units": (from_json(n_blocks=3), "{'n_blocks': 3} .*n_blocks and dropped"),
    "no count": (from_json(dropped=[]), "{'dropped': .*n_blocks and dropped"),
    "count": (from_json(n_blocks="x", dropped=[]), "'x'.*n_blocks and dropped"),
    "json block": (from_json(n_blocks=4, dropped=[1, 7]), r"\[7\]"),
    "unit of json": (from_json(n_blocks=4, dropped=["a1"], unit="head"), "unit='head' .*block"),
    "kind of json": (from_json(n_blocks=4, dropped=["c1"], unit="sublayer"), "'c1' .*a3, m3 or b3"),
    "name of json": (from_json(n_blocks=4, dropped=["a9"], unit="sublayer"), r"\[18\]"),
    **{f"list {text}": (parsed(text), f"'{text}' .*a3,m7,b12") for text in ("x3", "3-5", "-1")},
    **{f"k={k}": (lambda k=k: Space(8, k), rf"k = {k} .* of 8, .* from 1 to 7") for k in (0, -1, 8, 9)},
    "k of free": (lambda: Space(8, 6, frozenset({0, 1, 7})), r"k = 6 .* 8, .* 5 .*protect\.first"),
    "unit": (Removal(0.2, None, "sublayers").check, r"'sublayers'.*sublayer"),
    "budget": (Removal(0.2, None, "sublayer", "time").check, r"'time'.*latency"),
    "neither": (Removal(None, None).check, r"ratio=None and k=None"),
    "both": (Removal(0.2, 3).check, r"ratio=0\.2 and k=3"),
    "both of parts": (Removal(0.2, 3, "sublayer").check, "ratio or k"),
    "k of time": (Removal(None, 3, "sublayer", "latency").check, "budget=latency and k=3"),
    **{
        f"ratio={ratio}": (spaced(32, ratio, None), f"ratio={ratio:g} .* above 0 and below 1")
        for ratio in (0.0, 1.0, -0.5, 1.5, math.nan, math.inf)
    },
    **{f"no k={k}": (spaced(32, None, k), f"k={k} .* 1 or more") for k in (0, -3)},
    **{
        f"protect {first}, {last}": (
            spaced(10, None, 1, first=first, last=last),
            rf"protect\.first={first} and protect\.last={last}",
        )
        for first, last in ((5, 5), (10, 0), (0, 12), (-1, 0), (0, -2))
    },
    **{f"latency.{n}": (Latency(**{n: 0}).check, f"latency.{n}=0") for n in ("batch", "tokens", "repeats")},
    "out of reach": (spaced(10, 0.5, None, "attention", costs=[1.0, 3.0] * 10), r"ratio=0\.5 .*\(0\.25 of"),
    "too coarse": (lambda: Budget.share((1, 1, 1), 0.1, [0, 1, 2]), r"ratio=0\.1 .* as close"),
    "too much": (lambda: Budget.share((1, 1, 1, 1), 0.95, range(4)), r"ratio=0\.95 "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_impossible_is_refused_with_its_value(case: str) -> None:
    made, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        made()


# Budgets.


def subsets(units: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return (s for n in range(len(units) + 1) for s in combinations(units, n))


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    costs = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    least = draw(st.integers(1, sum(costs) + 2))
    return Budget(tuple(costs), least, least + draw(st.integers(0, 4)))


@given(budgets(), st.data())
def test_sets_of_a_budget_are_found_as_by_brute_force(made: Budget, data: st.DataObject) -> None:
    free = sorted(data.draw(st.sets(st.sampled_from(range(len(made.costs))))))
    spent = data.draw(st.integers(0, made.most + 1))

    def met(start: int) -> list[tuple[int, ...]]:
        return [s for s in subsets(free) if made.least <= start + sum(made.costs[i] for i in s) <= made.most]

    assert list(made.sets(free)) == sorted(met(0))
    assert made.count(free) == len(met(0))
    assert made.most_units(free) == max(map(len, met(0)), default=-1)
    assert made.fitting(spent, free) == [i for i in free if any(i in s for s in met(spent))]


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=12), st.floats(0.05, 0.95))
def test_a_budget_is_the_ratio_give_or_take_half_of_the_smallest_unit(
    values: list[float], ratio: float
) -> None:
    free = list(range(len(values)))
    try:
        made = Budget.share(values, ratio, free)
    except InputError:
        return
    half = min(made.costs) / 2
    assert len(made.costs) == len(values)
    if made.most < sum(made.costs) - min(made.costs):
        assert made.most <= ratio * SCALE + half < made.most + 1
    assert made.most < sum(made.costs), "something stays"
    assert made.least == 1 or made.least - 1 < ratio * SCALE - half <= made.least
    assert abs(sum(made.costs) - SCALE) <= len(values)
    assert made.fitting(0, free)


# Spaces.

UNEQUAL = sublayer_space(4, 0.4, None, (2, 3, 1, 5, 2, 3, 1.5, 4), first=1)
SPACES = {
    "blocks": Space(7, 3, frozenset({0})),
    "sub-layers": Space(4, 3, frozenset({0, 5}), "sublayer"),
    "a budget": sublayer_space(4, 0.5, None, (1, 3) * 4),
    "MLPs": sublayer_space(4, 0.4, None, (1, 3) * 4, "m"),
    "unequal": UNEQUAL,
    "a wide budget": Space(3, 3, frozenset(), "sublayer", Budget((1, 3, 1, 3, 1, 3), 4, 5)),
}


def members(space: Space) -> list[tuple[int, ...]]:
    """The masks of a space, by a look at every set of units."""
    return sorted(s for s in subsets(space.free()) if space.drop(*s) in space)


@pytest.mark.parametrize("chosen", SPACES.values(), ids=SPACES)
def test_masks_are_all_masks_in_order_and_a_unit_fits_if_one_removes_it(chosen: Space) -> None:
    every = members(chosen)
    assert [mask.dropped for mask in chosen.masks()] == every
    assert chosen.size == len(every)
    assert max(map(len, every)) == chosen.k
    for dropped in subsets(chosen.free()):
        fits = [u for u in chosen.free(dropped) if any({*dropped, u} <= {*mask} for mask in every)]
        assert chosen.fitting(dropped) == fits
        assert chosen.extendable(chosen.drop(*dropped)) == any({*dropped} <= {*mask} for mask in every)


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


def test_masks_of_other_models_and_masks_with_protected_units_are_not_in_the_space() -> None:
    assert Mask(7, (1, 2, 3)) in SPACES["blocks"]
    for other in (Mask(7, (0, 1, 2)), Mask(8, (1, 2, 3)), Mask(7, (1, 2, 3), "sublayer")):
        assert other not in SPACES["blocks"]
    assert sublayers(1, 2, 3) not in UNEQUAL, "block 0 is protected"


def test_costs_are_counts_without_a_budget_and_shares_with_one() -> None:
    counted, costly = SPACES["blocks"], SPACES["a budget"]
    assert (counted.cost(1, 4), counted.per_cost(0.6, 3), counted.kind(3)) == (2, 0.6, "block")
    assert (costly.cost(0, 1), costly.per_cost(0.6, 1)) == (625 + 1875, 0.6 / 1875)
    assert [costly.kind(u) for u in (0, 3)] == ["attention", "mlp"]
    chosen = Space(8, 3, frozenset({0, 7}))
    assert (chosen.size, chosen.free((2, 5)), chosen.drop(5, 2)) == (20, [1, 3, 4, 6], Mask(8, (2, 5)))
    assert Space(8, 5, frozenset({0, 1, 7})).size == 1


@pytest.mark.parametrize("chosen", [SPACES["a budget"], Space(4, 3, frozenset(), "sublayer"), Space(7, 3)])
def test_the_space_of_a_finished_search_knows_its_masks(chosen: Space) -> None:
    record: dict[str, object] = {"k": chosen.k}
    if (budget := chosen.budget) is not None:
        record["budget"] = {"costs": list(budget.costs), "least": budget.least, "most": budget.most}
    found: SearchRecord = record  # type: ignore[assignment]
    assert space_of(next(chosen.masks()), found) == chosen


def test_a_mask_is_complete_by_its_record_if_it_is_in_the_space() -> None:
    space = sublayer_space(3, 0.5, None, [1, 3] * 3)
    every = list(subsets(space.free()))
    budget = Removal(0.5, None, "sublayer").record(space, space.drop(1, 3))
    complete = [mask for mask in every if is_complete(mask, 99, budget)]
    assert complete == [mask for mask in every if space.drop(*mask) in space]
    assert len({len(mask) for mask in complete}) > 1, "masks of one problem differ in their number of units"
    assert budget is not None
    assert Budget.recorded(budget).count(space.free()) == len(complete) == space.size
    assert [mask for mask in every if is_complete(mask, 2, None)] == [m for m in every if len(m) == 2]


# What a cell removes.

COSTS = [1.0, 3.0] * 10  # ten blocks; an MLP is three times as large as attention


@given(st.integers(2, 200), st.floats(0.001, 0.999))
def test_a_ratio_means_round_of_ratio_times_blocks_or_an_error(n_blocks: int, ratio: float) -> None:
    removal, expected = Removal(ratio, None), round(ratio * n_blocks)
    if expected in (0, n_blocks):
        with pytest.raises(InputError, match=f"ratio={ratio:g} of {n_blocks} blocks .*k=") as refused:
            removal.space(n_blocks)
        offered = float(str(refused.value).partition("choose at ")[2].split()[1].rstrip(","))
        assert Removal(offered, None).space(n_blocks).k == (n_blocks - 1 if expected else 1)
    else:
        assert removal.space(n_blocks).k == expected


def test_what_is_counted_is_known_without_costs() -> None:
    removal = Removal(0.2, None, first=1)
    assert removal.counted
    assert removal.space(10) == Space(10, 2, frozenset({0}))
    assert removal.record(removal.space(10), Mask(10, (3, 4))) is None
    assert Removal(None, 4, first=2, last=1).space(10) == Space(10, 4, frozenset({0, 1, 9}))
    assert Removal(None, 3, "sublayer").counted
    space = Removal(None, 3, "sublayer").space(10)
    assert (space.k, space.n_units, space.budget, len(space.free())) == (3, 20, None, 20)


@pytest.mark.parametrize(("unit", "free"), [("attention", range(2, 20, 2)), ("mlp", range(3, 20, 2))])
def test_one_kind_of_sub_layer_can_be_chosen(unit: str, free: range) -> None:
    assert Removal(None, 3, unit, first=1).space(10).free() == list(free)
    assert Removal(0.2, None, unit, first=1).space(10, COSTS).free() == list(free)


def test_a_ratio_of_sub_layers_is_one_of_their_costs() -> None:
    removal = Removal(0.2, None, "sublayer")
    assert not removal.counted
    space = removal.space(10, COSTS)
    for units in ((0, 1, 2, 3), range(0, 16, 2), (1, 3, 4, 6)):
        assert space.complete(space.drop(*units)), units
    assert not any(space.complete(space.drop(*units)) for units in ((1, 3), (1, 3, 5)))
    record = removal.record(space, space.drop(0, 1, 2, 3))
    assert record is not None
    assert (record["cost"], record["asked"], record["removed"]) == ("parameters", 0.2, 0.2)
    assert record["least"] < sum(record["costs"][:4]) < record["most"]


def test_blocks_can_cost_time() -> None:
    removal = Removal(0.3, None, budget="latency", last=1)
    assert not removal.counted
    space = removal.space(4, [2.0, 1.0, 1.0, 6.0])
    assert (space.unit, 3 in space.free()) == ("block", False)
    assert space.complete(space.drop(0, 1))
    assert not space.complete(space.drop(1, 2))
