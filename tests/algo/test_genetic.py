from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pruning.algo._surrogate import draw, fresh, log_weights, one_shot, scale, swapped
from pruning.algo.genetic import Genetic, crossed
from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space
from tests.algo.test_contract import drive, optimum, pairwise

SPACE = Space(14, 5, frozenset({0, 13}))
RNG = np.random.default_rng


def inside(mask: Mask) -> bool:
    return len(mask.dropped) == SPACE.k and not SPACE.protected & {*mask.dropped}


def test_a_child_has_what_both_parents_have_and_nothing_that_neither_has() -> None:
    rng = RNG(0)
    for _ in range(200):
        a, b = draw(SPACE, rng), draw(SPACE, rng)
        child = {*crossed(a, b, SPACE, rng).dropped}
        assert inside(Mask(14, tuple(child)))
        assert {*a.dropped} & {*b.dropped} <= child <= {*a.dropped} | {*b.dropped}


@pytest.mark.parametrize(("mutates", "swapped_blocks"), [("block", 0.3 * 5), ("set", 0.3)])
def test_mutation_swaps_as_many_blocks_as_its_rate_says(mutates: str, swapped_blocks: float) -> None:
    algo, rng, parent = Genetic(mutation=0.3, mutates=mutates), RNG(0), SPACE.drop(1, 2, 3, 4, 5)
    mutants = [algo.mutate(parent, SPACE, rng) for _ in range(2000)]
    assert all(map(inside, mutants))
    lost = [len({*parent.dropped} - {*mutant.dropped}) for mutant in mutants]
    assert np.mean(lost) == pytest.approx(swapped_blocks, abs=0.1)


def test_the_elite_survives_and_a_generation_has_no_duplicates() -> None:
    rng = RNG(1)
    population = list(dict.fromkeys(draw(SPACE, rng) for _ in range(30)))[:16]
    fitness = list(rng.permutation(16).astype(float))
    following = Genetic().breed(population, fitness, SPACE, rng)
    best = [population[i] for i in np.argsort(fitness)]
    assert following[:3] == best[:3], "int(0.2 * 16)"
    assert len({*following}) == len(following) == 16
    assert all(map(inside, following))


def test_children_are_made_of_two_parents() -> None:
    population = [SPACE.drop(1, 2, 3, 4, 5), SPACE.drop(8, 9, 10, 11, 12)]
    algo = Genetic(population=2, mutation=0, tournament=1, elitism=0)
    bred = [mask for seed in range(50) for mask in algo.breed(population, [1.0, 2.0], SPACE, RNG(seed))]
    mixed = [
        len({*mask.dropped} & {1, 2, 3, 4, 5}) in (1, 2, 3, 4) and 6 not in mask.dropped for mask in bred
    ]
    assert sum(mixed) > 30, "half of the pairs are two different sets"


def test_parents_are_winners_of_tournaments() -> None:
    rng = RNG(2)
    population = [SPACE.drop(*c) for c in ((1, 2, 3, 4, 5), (8, 9, 10, 11, 12), (6, 7, 8, 9, 10))]
    bred = [
        mask
        for _ in range(300)
        for mask in Genetic(population=3, mutation=0, tournament=60).breed(
            population, [1.0, 2.0, 3.0], SPACE, rng
        )
    ]
    # The best set wins every tournament and crosses with itself; one swap makes its child a new set.
    assert all(len({*mask.dropped} & {1, 2, 3, 4, 5}) >= 3 for mask in bred)


def test_the_first_population_is_the_one_shot_set_and_draws() -> None:
    loss = pairwise(14, 0)
    run = drive(Genetic(), SPACE, loss)
    singles, first = run.batches[:2]
    assert len(singles) == 12
    assert len(first) == 16
    assert first[0] == one_shot(SPACE, np.array([loss(mask) for mask in singles]))
    assert run.why == "10 generations were bred"


def test_a_small_space_is_exhausted_and_the_reason_is_reported() -> None:
    loss = pairwise(7, 0, 3.0)
    run = drive(Genetic(generations=1000), Space(7, 3), loss)
    assert run.why == "every mask of the space was scored"
    assert run.answer == optimum(Space(7, 3), loss)


def test_draws_follow_the_weights_and_never_fail() -> None:
    losses = np.array([0.0, 1.0, 2.0, 1e9])
    assert scale(losses) == 1.5
    assert scale(np.ones(4)) == 1.0
    weights = log_weights(losses, temperature=1.0)
    rng, space = RNG(0), Space(4, 1)
    counts = np.bincount([draw(space, rng, weights).dropped[0] for _ in range(4000)], minlength=4)
    expected = np.exp(-losses / 1.5) / np.exp(-losses / 1.5).sum()
    assert counts / 4000 == pytest.approx(expected, abs=0.03)
    assert draw(Space(5, 4, frozenset({0})), rng, weights).dropped == (1, 2, 3, 4)


def test_a_swap_of_too_many_blocks_swaps_as_many_as_possible() -> None:
    space, rng = Space(6, 4), RNG(0)
    mask = space.drop(0, 1, 2, 3)
    assert {4, 5} <= {*swapped(mask, space, rng, swaps=9).dropped}
    assert swapped(Space(3, 2, frozenset({1})).drop(0, 2), Space(3, 2, frozenset({1})), rng).dropped == (0, 2)
    assert fresh(mask, [mask], space, rng) != mask


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 1}, "algo.population=1 is too few: choose at least 2"),
        ({"generations": -1}, "algo.generations=-1 is too few"),
        ({"tournament": 0}, "algo.tournament=0 is too few"),
        ({"elitism": 1.0}, "algo.elitism=1 is out of range"),
        ({"mutation": 1.5}, "algo.mutation=1.5 is not a probability"),
        ({"mutates": "gene"}, "algo.mutates=gene is unknown: choose block or set"),
        ({"temperature": 0.0}, "algo.temperature=0 is too small"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(Genetic(), **settings)
