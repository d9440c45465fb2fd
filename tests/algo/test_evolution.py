from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pruning.algo.evolution import Evolution
from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space
from tests.algo.test_contract import Run, deviation, drive, pairwise

SPACE = Space(14, 5, frozenset({0, 13}))


def by_samples(run: Run, samples: int | None) -> list[list[Mask]]:
    return [list(request.masks) for request in run.requests if request.samples == samples]


def test_mutation_keeps_k_and_the_protected_blocks() -> None:
    parent = SPACE.drop(1, 2, 3, 4, 5)
    mutants = Evolution().mutants(parent, SPACE, np.random.default_rng(0))
    assert len({*mutants}) == len(mutants) == 32
    assert parent not in mutants
    assert all(len(m.dropped) == SPACE.k and not SPACE.protected & {*m.dropped} for m in mutants)


def test_most_mutants_are_one_swap_away_and_none_more_than_three() -> None:
    parent, rng = SPACE.drop(1, 2, 3, 4, 5), np.random.default_rng(1)
    mutants = [m for _ in range(200) for m in Evolution(offspring=2).mutants(parent, SPACE, rng)]
    share = {d: n / 400 for d, n in Counter(len({*parent.dropped} - {*m.dropped}) for m in mutants).items()}
    assert share == pytest.approx({1: 5 / 9, 2: 3 / 9, 3: 1 / 9}, abs=0.07)


def test_if_few_sets_are_within_reach_all_of_them_are_made() -> None:
    space = Space(5, 2)
    assert len(Evolution(swaps=1).mutants(space.drop(0, 1), space, np.random.default_rng(0))) == 2 * 3
    assert len(Evolution().mutants(space.drop(0, 1), space, np.random.default_rng(0))) == space.size - 1


def test_later_stages_ask_only_for_survivors() -> None:
    algo = Evolution(offspring=20, samples=(2, 5), survivors=(6, 2), initial=10, generations=8)
    loss = pairwise(14, 3, 2.0)
    run = drive(algo, SPACE, loss, seed=4)
    seen: dict[int | None, set[Mask]] = {2: set(), 5: set(), None: set()}
    assert len(by_samples(run, 2)[0]) == 10, "the first parent is selected on the samples of the first stage"
    for request in run.requests[1:]:
        before = {5: seen[2], None: seen[5]}.get(request.samples)
        if before is not None and len(seen[None]) > 1:
            assert {*request.masks} <= before
        seen[request.samples] |= {*request.masks}
    assert len(seen[2]) > len(seen[5]) > len(seen[None]) > 8
    assert all(len(batch) <= 6 for batch in by_samples(run, 5))
    assert all(len(batch) <= 2 for batch in by_samples(run, None)[1:])
    survivors = sorted(by_samples(run, 2)[1], key=lambda mask: loss(mask) + deviation(mask, 2))[:6]
    assert by_samples(run, 5)[0] == survivors


def test_the_parent_is_the_best_so_far_on_all_samples() -> None:
    loss = pairwise(14, 5, 2.0)
    run = drive(Evolution(generations=12), SPACE, loss, seed=1)
    full = [mask for batch in by_samples(run, None) for mask in batch if len(mask.dropped) == SPACE.k]
    assert run.answer == min(full, key=loss)
    assert run.why == "12 generations were bred"


def test_the_number_of_generations_is_evopress_s_unless_it_is_given() -> None:
    assert drive(Evolution(initial=4, offspring=4), SPACE, pairwise(14, 0)).why == "23 generations were bred"
    assert round(5 * (12 - 5) / 1.5) == 23


def test_without_stages_all_offspring_are_scored_on_all_samples() -> None:
    run = drive(Evolution(samples=(), survivors=(), generations=3), SPACE, pairwise(14, 0))
    assert {request.samples for request in run.requests} == {None}
    assert len(run.asked) <= Evolution(samples=(), survivors=(), generations=3).evaluations(SPACE)


def test_a_small_space_is_exhausted_and_the_reason_is_reported() -> None:
    algo = Evolution(samples=(), survivors=(), generations=100)
    assert drive(algo, Space(6, 2), pairwise(6, 0)).why == "every mask of the space was scored"


def test_a_space_of_single_units_is_scored_once() -> None:
    space = Space(6, 1)
    run = drive(Evolution(), space, pairwise(6, 0))
    assert (run.why, len(run.asked)) == ("every mask of the space was scored", 6)


def test_within_a_kind_the_number_of_attentions_and_mlps_is_kept() -> None:
    space, loss = Space(6, 4, frozenset(), "sublayer"), pairwise(12, 2, 2.0)
    run = drive(Evolution(within="kind", initial=1, generations=6), space, loss, seed=3)
    first, one_shot = (mask for mask in run.requests[2].masks)
    parents = {sum(u % 2 for u in mask.dropped) for mask in (first, one_shot)}
    later = [mask for request in run.requests[3:] for mask in request.masks]
    assert {sum(u % 2 for u in mask.dropped) for mask in later} <= parents
    other = drive(Evolution(initial=1, generations=6), space, loss, seed=3)
    assert not {sum(u % 2 for u in m.dropped) for r in other.requests[3:] for m in r.masks} <= parents


def test_if_no_swap_of_a_kind_is_possible_the_search_says_so() -> None:
    stuck = Space(2, 2, frozenset({3}), "sublayer")  # a0, m0 and a1: {a0, a1} has no other attention to swap

    def loss(mask: Mask) -> float:
        return float(mask.dropped != (0, 2)) + 0.1 * (1 in mask.dropped)

    run = drive(Evolution(within="kind", initial=1), stuck, loss, seed=1)
    assert run.why == "no swap stays in the space"
    assert run.answer == stuck.drop(0, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"within": "block"}, "algo.within=block is unknown: choose any or kind"),
        ({"offspring": 0}, "algo.offspring=0 is too few"),
        ({"initial": 0}, "algo.initial=0 is too few"),
        ({"swaps": 0}, "algo.swaps=0 is too few"),
        ({"generations": -1}, "algo.generations=-1 is negative"),
        ({"samples": (4, 8)}, r"algo.samples=\(4, 8\) and algo.survivors=\(2,\) differ in length"),
        ({"samples": (0,)}, r"algo.samples=\(0,\) is invalid: choose numbers from 1 on that rise"),
        ({"samples": (8, 4), "survivors": (8, 2)}, r"algo.samples=\(8, 4\) is invalid"),
        ({"survivors": (33,)}, r"algo.survivors=\(33,\) is invalid: choose numbers from 32"),
        ({"survivors": (0,)}, r"algo.survivors=\(0,\) is invalid"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(Evolution(), **settings)
