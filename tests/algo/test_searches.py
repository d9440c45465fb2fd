"""What each search does in its own way."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest

from pruning.algo import Algo, Ask, Gates, _quadratic
from pruning.algo.annealing import Annealing, accepts
from pruning.algo.bayesian import Bayesian
from pruning.algo.beam import Beam
from pruning.algo.cbo import Cbo
from pruning.algo.cbo_hessian import CboHessian
from pruning.algo.contiguous import Contiguous
from pruning.algo.evolution import Evolution
from pruning.algo.exhaustive import Exhaustive
from pruning.algo.fast_block_select import FastBlockSelect, Run, disjoint
from pruning.algo.genetic import Genetic
from pruning.algo.greedy import Greedy
from pruning.algo.local_search import LocalSearch
from pruning.algo.one_shot import OneShot
from pruning.algo.random import Random
from pruning.core.errors import OutOfReachError
from pruning.core.mask import Mask, Space
from tests.helpers.searches import LossOf, deviation, drive, optimum, pairwise
from tests.helpers.spaces import sublayer_space, swaps

SPACE = Space(12, 4)
ENDS = Space(14, 5, frozenset({0, 13}))
N = 6
COSTS = (1.0, 3.0) * N  # an attention and an MLP
HALF = sublayer_space(N, 0.5, None, COSTS)
UNEQUAL = sublayer_space(N, 0.3, None, (2, 3, 1, 5, 2, 3, 1.5, 4, 2, 2.5, 3, 7))


def additive(*single: float) -> LossOf:
    return lambda mask: sum(single[i] for i in mask.dropped)


def equal(_: Mask) -> float:
    return 3.0


@pytest.mark.parametrize("algo", [Annealing(), Bayesian(trials=40), LocalSearch(), Exhaustive()], ids=str)
def test_equal_losses_lead_to_the_first_mask(algo: Algo) -> None:
    assert drive(algo, SPACE, equal).answer.dropped == (0, 1, 2, 3)


# One-shot, greedy and beam.


@pytest.mark.parametrize("algo", [Greedy(), OneShot()], ids=["greedy", "one_shot"])
def test_ties_go_to_the_lower_index(algo: Algo) -> None:
    space = Space(50, 5, frozenset({2}))  # an unstable sort keeps the order of short arrays only
    assert drive(algo, space, lambda mask: sum(i % 2 for i in mask.dropped)).answer.dropped == (
        0,
        4,
        6,
        8,
        10,
    )


@pytest.mark.parametrize("seed", range(6))
def test_beam_of_width_one_is_greedy_and_of_unlimited_width_exhaustive(seed: int) -> None:
    space, loss = Space(9, 4), pairwise(9, seed, strength=3.0)
    assert drive(Beam(1), space, loss) == drive(Greedy(), space, loss)
    assert drive(Beam(10_000), space, loss).answer == optimum(space, loss)


def test_by_loss_the_cheapest_units_are_taken_whatever_they_cost() -> None:
    loss = additive(0.2, 0.5, 0.2, 0.5, 0.25, 0.9, 0.3, 0.9, 0.3, 0.9, 0.3, 0.9)
    space = sublayer_space(N, 1 / 6, None, COSTS)  # an attention and an MLP, or four attentions
    for kind in (OneShot, Greedy):
        by_cost, by_loss = (drive(kind(rank=rank), space, loss) for rank in ("cost", "loss"))
        assert by_cost.answer.names() == ("b0",)
        assert by_loss.answer.names() == ("a0", "a1", "a2", "a3")
        assert space.dense in by_cost.asked
        assert space.dense not in by_loss.asked


@pytest.mark.parametrize(
    "algo",
    [OneShot(), Greedy(), Beam(), LocalSearch(), Annealing(), Evolution()],
    ids=lambda a: type(a).__name__,
)
@pytest.mark.parametrize("seed", range(3))
def test_blocks_whose_parts_have_the_same_rise_per_cost_go_as_a_whole(algo: Algo, seed: int) -> None:
    rates = random.Random(seed).sample([0.1, 0.2, 0.3, 0.5, 0.7, 0.9], N)
    assert HALF.budget is not None
    costs = HALF.budget.costs

    def loss(mask: Mask) -> float:
        return 2.0 + sum(rates[u // 2] * costs[u] for u in mask.dropped)

    best = optimum(HALF, loss)
    assert drive(algo, HALF, loss).answer == best
    assert len(best.dropped) == 2 * len(best.gone) == N


# Greedy over sub-layers on a budget also follows the path of whole blocks.

THIRD = sublayer_space(N, 1 / 3, None, COSTS)  # two blocks


def by_blocks(loss: LossOf) -> Mask:
    """Greedy over blocks of equal cost, in terms of sub-layers."""
    return drive(Greedy(), Space(N, 2), lambda mask: loss(mask.as_sublayers())).answer.as_sublayers()


def paired(mask: Mask) -> float:
    """Each part costs much alone, and nothing if its other part goes too; m0 is cheap and leads away from that."""
    gone = set(mask.dropped)
    broken = sum((2 * block in gone) != (2 * block + 1 in gone) for block in range(N))
    return 1.0 + 0.5 * broken + 0.01 * len(gone) - 0.45 * (1 in gone) + 0.6 * ({0, 1} <= gone)


@pytest.mark.parametrize(
    "algo", [Greedy(), Greedy(lazy=0.05), LocalSearch()], ids=["greedy", "lazy", "local"]
)
@pytest.mark.parametrize("seed", range(8))
def test_it_is_never_worse_than_greedy_over_blocks(algo: Algo, seed: int) -> None:
    loss = pairwise(2 * N, seed, strength=3.0)
    run = drive(algo, THIRD, loss)
    assert loss(run.answer) <= loss(by_blocks(loss))
    assert run.answer in THIRD
    assert len(run.scores) <= algo.evaluations(THIRD)


# Local search.


@pytest.mark.parametrize("space", [Space(12, 5, frozenset({0})), HALF], ids=["count", "budget"])
@pytest.mark.parametrize("seed", range(6))
def test_local_search_ends_when_no_swap_helps_and_is_not_worse_than_its_starts(
    space: Space, seed: int
) -> None:
    loss = pairwise(12, seed, 3.0, dense=3.0)
    run = drive(LocalSearch(), space, loss)
    assert all(loss(run.answer) <= loss(other) for other in swaps(run.answer, space))
    assert swaps(run.answer, space) <= {*run.asked}, "all swaps were scored"
    assert run.why == "no swap lowers the loss"
    assert loss(run.answer) <= min(loss(drive(start, space, loss).answer) for start in (OneShot(), Greedy()))


# Exhaustive, random and contiguous.


def test_exhaustive_asks_for_every_mask_in_lexicographic_order_and_in_batches() -> None:
    loss = pairwise(12, 0, 3.0)
    run = drive(Exhaustive(), SPACE, loss)
    assert run.asked == list(SPACE.masks())
    assert [len(asked) for asked in run.batches] == [256, 495 - 256]
    assert run.answer == optimum(SPACE, loss)


def test_a_space_that_is_too_large_is_refused_with_its_count() -> None:
    for ask in (Exhaustive().evaluations, lambda space: drive(Exhaustive(), space, equal)):
        with pytest.raises(OutOfReachError) as caught:
            ask(Space(30, 6))
        assert all(
            text in str(caught.value) for text in ("593,775", "30 blocks", "k = 6", "algo.limit=50000")
        )
    assert Exhaustive(limit=600_000).evaluations(Space(30, 6)) == 593_775
    assert Exhaustive().evaluations(Space(32, 6, frozenset(range(16)))) == 8008


@pytest.mark.parametrize("trials", [50, 495, 10_000])
def test_random_scores_distinct_masks_in_one_batch_and_takes_the_best(trials: int) -> None:
    loss = pairwise(12, 0, 3.0)
    run = drive(Random(trials), SPACE, loss)
    assert len(run.batches) == 1
    assert len(run.asked) == len({*run.asked}) == min(trials, SPACE.size)
    assert run.answer == min(run.asked, key=loss)
    assert run.why == ("50 masks were drawn" if trials == 50 else "every mask of the space was scored")


@pytest.mark.parametrize(
    ("space", "windows"),
    [
        (Space(9, 4), [tuple(range(start, start + 4)) for start in range(6)]),
        (Space(9, 3, frozenset({0, 1, 8})), [(2, 3, 4), (3, 4, 5), (4, 5, 6), (5, 6, 7)]),
        (Space(6, 3, frozenset({3})), [(0, 1, 2), (1, 2, 4), (2, 4, 5)]),
    ],
)
def test_contiguous_takes_the_best_window_of_unprotected_neighbours(
    space: Space, windows: list[tuple[int, ...]]
) -> None:
    for seed in range(4):
        loss = pairwise(space.n_units, seed, 3.0)
        run = drive(Contiguous(), space, loss)
        assert [mask.dropped for mask in run.asked] == windows
        assert run.answer == min(run.asked, key=loss)


# Annealing and genetic.


def test_worse_sets_are_accepted_less_often_as_it_cools() -> None:
    assert accepts(-1.0, 0.1) == accepts(0.0, 0.1) == 1.0
    assert accepts(0.2, 0.1) == pytest.approx(math.exp(-2))
    assert accepts(0.2, 0.01) < accepts(0.2, 0.1)
    assert (accepts(0.2, 0.0), accepts(0.0, 0.0)) == (0.0, 1.0), "a power of the cooling becomes 0"


def test_a_child_is_mutated_as_often_as_the_rate_says() -> None:
    algo, rng, parent = Genetic(mutation=0.3, elitism=0), np.random.default_rng(0), ENDS.drop(*range(1, 6))
    children = [algo.breed([parent] * 2, [1.0, 1.0], ENDS, rng)[0] for _ in range(2000)]
    assert all(child in ENDS for child in children)
    lost = [len({*parent.dropped} - {*child.dropped}) for child in children]
    assert {*lost} == {0, 1}
    assert np.mean(lost) == pytest.approx(0.3, abs=0.03)


def test_the_elite_survives_and_a_generation_has_no_duplicates() -> None:
    rng = np.random.default_rng(1)
    population = [*ENDS.masks()][::40][:16]
    fitness = list(rng.permutation(16).astype(float))
    following = Genetic().breed(population, fitness, ENDS, rng)
    assert following[:3] == [population[i] for i in np.argsort(fitness)][:3], "int(0.2 * 16)"
    assert len({*following}) == len(following) == 16
    assert all(mask in ENDS for mask in following)


# Evolution.


def test_most_mutants_are_one_swap_away_and_none_more_than_three() -> None:
    parent, rng = ENDS.drop(*range(1, 6)), np.random.default_rng(1)
    mutants = [m for _ in range(200) for m in Evolution(offspring=2).mutants(parent, ENDS, rng)]
    assert all(mutant in ENDS for mutant in mutants)
    share = {d: n / 400 for d, n in Counter(len({*parent.dropped} - {*m.dropped}) for m in mutants).items()}
    assert share == pytest.approx({1: 5 / 9, 2: 3 / 9, 3: 1 / 9}, abs=0.07)


@pytest.mark.parametrize(
    ("algo", "space", "count"),
    [(Evolution(), ENDS, 32), (Evolution(swaps=1), Space(5, 2), 2 * 3), (Evolution(), Space(5, 2), 9)],
)
def test_mutants_are_distinct_and_all_that_are_within_reach_if_these_are_few(
    algo: Evolution, space: Space, count: int
) -> None:
    parent = space.drop(*space.free()[: space.k])
    mutants = algo.mutants(parent, space, np.random.default_rng(0))
    assert len({*mutants} - {parent}) == len(mutants) == count


def test_later_stages_ask_only_for_survivors() -> None:
    algo = Evolution(offspring=20, samples=(2, 5), survivors=(6, 2), initial=10, generations=8)
    loss = pairwise(14, 3, 2.0)
    run = drive(algo, ENDS, loss, seed=4)
    few, more, full = ([r.masks for r in run.requests if r.samples == n] for n in (2, 5, None))
    assert len(few[0]) == 10, "the first parent is selected on the samples of the first stage"
    assert list(more[0]) == sorted(few[1], key=lambda mask: loss(mask) + deviation(mask, 2))[:6]
    assert all(len(batch) <= 6 for batch in more)
    assert all(len(batch) <= 2 for batch in full[2:])
    scored = [mask for batch in full for mask in batch if mask in ENDS]
    assert run.answer == min(scored, key=loss), "the parent is the best so far on all samples"


def test_the_number_of_generations_is_evopress_s_unless_it_is_given() -> None:
    assert drive(Evolution(initial=4, offspring=4), ENDS, pairwise(14, 0)).why == "23 generations were bred"
    assert round(5 * (12 - 5) / 1.5) == 23
    run = drive(Evolution(samples=(), survivors=(), generations=3), ENDS, pairwise(14, 0))
    assert run.why == "3 generations were bred"
    assert {request.samples for request in run.requests} == {None}, "without stages, all samples are used"
    assert len(drive(Evolution(), Space(6, 1), pairwise(6, 0)).asked) == 6


# CBO: `test_quadratic.py` tests how energies are minimised.


@pytest.mark.parametrize("offset", [-7.0, 0.0, 30.0])
@pytest.mark.parametrize("enumerated", [True, False])
def test_the_quadratic_model_is_exact_for_pairwise_losses_whatever_the_dense_loss(
    enumerated: bool, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not enumerated:
        monkeypatch.setattr(_quadratic, "EXACT", 0)
        monkeypatch.setattr(_quadratic, "EXACT_ON_BUDGET", 0)
    for seed in range(3):
        loss = pairwise(12, seed, 3.0, dense=offset)
        for space in (Space(12, 5, frozenset({3})), UNEQUAL):
            run = drive(Cbo(rescore=0), space, loss)
            assert run.answer == optimum(space, loss)
            assert (space.dense in run.asked) == (space.budget is not None), "only there, sets differ in size"


GATED = Space(9, 4, frozenset({0, 7}))


def gradients(seed: int) -> np.ndarray:
    """Gradients of 6 samples with respect to the gates of 9 blocks; those of protected blocks must not matter."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((6, 9)) + rng.standard_normal(9) / 2


def gated(algo: CboHessian, a: np.ndarray, loss: Callable[[Mask], float] = equal) -> tuple[Mask, list[Mask]]:
    """The answer, and the masks that were asked for."""
    search = algo.propose(GATED, np.random.default_rng(0))
    assert isinstance(next(search), Gates)
    asked: list[Mask] = []
    try:
        request = search.send(a)
        assert isinstance(request, Ask)
        assert request.best == 1
        asked = list(request.masks)
        search.send([loss(mask) for mask in asked])
    except StopIteration as end:
        return end.value.mask, asked
    raise AssertionError("asked for more")


def energy(a: np.ndarray, chosen: tuple[int, ...], linear: bool) -> float:
    """The mean over samples of the expansion with d = -x: g^T d + 1/2 (A_s d)^2, or without the linear term."""
    d = np.zeros(9)
    d[list(chosen)] = -1
    return float(np.mean(a @ d * linear + (a @ d) ** 2 / 2))


def test_the_least_of_the_expansion_is_found_and_the_linear_term_matters() -> None:
    found: dict[bool, list[Mask]] = {True: [], False: []}
    for seed, linear in product(range(8), (True, False)):
        a = gradients(seed)
        best = min(combinations(GATED.free(), 4), key=lambda c: energy(a, c, linear))
        answer, asked = gated(CboHessian(linear=linear, rescore=0), a)
        assert (answer.dropped, asked) == (best, [])
        found[linear].append(answer)
    assert found[True] != found[False]


@pytest.mark.parametrize("rescore", [1, 5, 35, 500])
def test_the_least_energies_are_scored_and_the_best_of_them_is_taken(rescore: int) -> None:
    a = gradients(1)
    ranked = sorted(combinations(GATED.free(), 4), key=lambda c: energy(a, c, False))
    answer, asked = gated(
        CboHessian(rescore=rescore), a, loss=lambda mask: -float(ranked.index(mask.dropped))
    )
    assert [mask.dropped for mask in asked] == ranked[:rescore]
    assert answer == asked[-1]
    assert CboHessian(rescore=rescore).evaluations(GATED) == 7 + 1 + min(rescore, 35), "as without a gradient"


# Fast-Block-Select.


def test_a_run_that_is_expensive_as_a_group_is_replaced() -> None:
    single = additive(0.9, 0.1, 0.2, 0.9, 0.3, 0.4, 0.9, 0.9)
    run = drive(FastBlockSelect(), Space(8, 2), lambda mask: single(mask) + 2.0 * ({1, 2} <= {*mask.dropped}))
    assert run.answer.dropped == (4, 5), "1 and 2 are cheapest alone and expensive together"
    assert run.why == "the set no longer changed"
    assert len(run.batches) == 2, "after the first replacement, every group is known"


def test_the_path_of_blocks_finds_what_steps_of_single_units_pass_by() -> None:
    found = drive(Greedy(), THIRD, paired).answer
    assert found == by_blocks(paired)
    assert paired(found) == min(map(paired, THIRD.masks()))


@pytest.mark.parametrize("seed", range(10))
def test_the_choice_of_groups_is_the_best_without_conflict(seed: int) -> None:
    rng, sizes = np.random.default_rng(seed), [(3, 3), (2, 2), (2, 2), (1, 1), (1, 1)]
    pools = {
        (n, n): [tuple(range(s, s + n)) for s in rng.permutation(12 - n)[:6].tolist()] for n in (3, 2, 1)
    }
    pools[3, 3].append((20, 21, 22))  # so that at least one choice has no conflict
    pools[2, 2] += [(23, 24), (25, 26)]
    losses: dict[Run, float] = {
        group: float(rng.standard_normal()) for pool in pools.values() for group in pool
    }
    chosen = disjoint(sizes, pools, losses)

    def free(groups: tuple[Run, ...]) -> bool:
        return all(not {*a} & {*b} for a, b in combinations(groups, 2))

    choices = product(pools[3, 3], combinations(pools[2, 2], 2), combinations(pools[1, 1], 2))
    least = min(sum(losses[g] for g in c) for a, b, d in choices if free(c := (a, *b, *d)))
    assert free(tuple(chosen))
    assert [len(group) for group in chosen] == [size for size, _ in sizes]
    assert sum(losses[g] for g in chosen) == pytest.approx(least)
