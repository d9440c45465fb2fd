"""Budgets: every shortcut equals a look at all sets of units."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.core.errors import InputError
from pruning.core.mask import SCALE, Budget


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    costs = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    least = draw(st.integers(1, sum(costs) + 2))
    return Budget(tuple(costs), least, least + draw(st.integers(0, 4)))


def all_sets(made: Budget, free: list[int]) -> list[tuple[int, ...]]:
    every = (s for n in range(len(free) + 1) for s in combinations(free, n))
    return sorted(s for s in every if made.least <= sum(made.costs[i] for i in s) <= made.most)


@given(budgets(), st.data())
def test_sets_are_enumerated_and_counted_as_by_brute_force(made: Budget, data: st.DataObject) -> None:
    free = sorted(data.draw(st.sets(st.sampled_from(range(len(made.costs))))))
    assert list(made.sets(free)) == all_sets(made, free)
    assert made.count(free) == len(all_sets(made, free))


@given(budgets(), st.data())
def test_a_unit_fits_if_the_budget_can_be_met_with_it(made: Budget, data: st.DataObject) -> None:
    others = sorted(data.draw(st.sets(st.sampled_from(range(len(made.costs))))))
    spent = data.draw(st.integers(0, made.most + 1))
    every = [s for n in range(len(others) + 1) for s in combinations(others, n)]
    met = [s for s in every if made.least <= spent + sum(made.costs[i] for i in s) <= made.most]
    assert made.fitting(spent, others) == [i for i in others if any(i in s for s in met)]


@given(budgets())
def test_the_largest_number_of_units_is_that_of_some_set_in_the_budget(made: Budget) -> None:
    free = list(range(len(made.costs)))
    assert made.most_units(free) == max(map(len, all_sets(made, free)), default=-1)


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


def test_the_budget_of_a_fifth_of_30_blocks() -> None:
    made = Budget.share((83, 250) * 30, 0.2, range(60))
    assert (made.costs[:2], made.least, made.most) == ((83, 250), 1959, 2041)


def test_a_ratio_out_of_reach_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"ratio=0\.5 .* only 0\.25 of them"):
        Budget.share((1, 3, 1, 3), 0.5, [0, 2])
    with pytest.raises(InputError, match=r"ratio=0\.1 .* no set of units comes as close"):
        Budget.share((1, 1, 1), 0.1, [0, 1, 2])
    with pytest.raises(InputError, match=r"ratio=0\.95 .* nothing would be left of the model"):
        Budget.share((1, 1, 1, 1), 0.95, range(4))
