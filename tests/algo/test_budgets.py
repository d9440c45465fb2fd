"""The requirements on every search in spaces of sub-layers, with a budget and without.

Each block has an attention of cost 1 and an MLP of cost 3, in whole parts of 10,000.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from pruning.algo import Algo, Ask
from pruning.config.groups import options
from pruning.core.mask import Mask, Space
from tests.algo.test_contract import Loss, configured, drive, pairwise
from tests.helpers.spaces import sublayer_space

N = 6
COSTS = (1.0, 3.0) * N


def budgeted(ratio: float, kinds: str = "am", first: int = 0, last: int = 0, n_blocks: int = N) -> Space:
    return sublayer_space(n_blocks, ratio, None, (1.0, 3.0) * n_blocks, kinds, first, last)


SPACES = {
    "a sixth": budgeted(1 / 6),
    "a quarter": budgeted(0.25),
    "a half": budgeted(0.5),
    "ends protected": budgeted(0.3, first=1, last=1),
    "attention only": budgeted(0.1, "a"),
    "MLPs only": budgeted(0.3, "m"),
    "one mask": budgeted(0.25, "a"),
    "unequal blocks": sublayer_space(N, 0.35, None, [*(2.0, 3.0, 1.0, 5.0) * 2, 1.5, 2.5, 4.0, 4.0]),
    "k sub-layers": sublayer_space(N, None, 4, COSTS, first=1),
    "k attentions": sublayer_space(N, None, 3, COSTS, "a"),
}
# Searches that score every mask of these spaces, or whose model of the loss is exact.
OPTIMAL = {"cbo", "exhaustive"}
# Searches that find the optimum of an additive loss if units of equal cost can only be swapped one for one.
ADDITIVE = OPTIMAL | {
    "annealing",
    "bayesian",
    "beam",
    "cbo_hessian",
    "evolution",
    "fast_block_select",
    "genetic",
}
ADDITIVE |= {"greedy", "local_search", "one_shot"}


@pytest.fixture(scope="module")
def algos() -> dict[str, Algo]:
    """Every search as configured, except that bayesian makes fewer trials to save time."""
    found = configured()
    return found | {"bayesian": replace(found["bayesian"], trials=60)}  # type: ignore[type-var]


@pytest.fixture(params=options("algo"))
def algo(request: pytest.FixtureRequest, algos: dict[str, Algo]) -> Algo:
    return algos[request.param]


@pytest.fixture(params=list(SPACES.values()), ids=list(SPACES))
def space(request: pytest.FixtureRequest) -> Space:
    chosen: Space = request.param
    return chosen


@cache
def losses(n_units: int, seed: int, strength: float = 1.0) -> Loss:
    """A loss with terms for units and pairs, and a dense loss that is not 0."""
    terms = pairwise(n_units, seed, strength)
    return lambda mask: 3.0 + terms(mask)


def optimum(space: Space, loss: Loss) -> Mask:
    return min(space.masks(), key=loss)


def settings(algo: Algo) -> Iterator[Algo]:
    """The search, and with each of its settings for budgets."""
    yield algo
    for name, value in (("rank", "loss"), ("within", "kind")):
        if hasattr(algo, name):
            yield replace(algo, **{name: value})  # type: ignore[type-var]


def ranking(algo: Algo, rank: str) -> Algo:
    return replace(algo, rank=rank)  # type: ignore[type-var]


def test_the_answer_is_in_the_space_and_a_loss_is_asked_for_twice_only_for_rises(
    algo: Algo, space: Space
) -> None:
    for seed, search in enumerate(settings(algo)):
        run = drive(search, space, losses(space.n_units, seed), seed)
        assert run.answer in space
        assert len({*run.scores}) <= search.evaluations(space)
        rises = {m for r in run.requests if isinstance(r, Ask) and r.rise is not None for m in r.masks}
        repeated = {score[0] for score in run.scores if run.scores.count(score) > 1}
        assert repeated <= rises, "only what a rise per cost can rule out is asked for twice"
        assert all(run.batches), "no batch is empty"
        assert not any(space.protected & {*mask.dropped} for mask in run.asked)


def test_a_run_depends_on_seed_and_losses_only(algo: Algo, space: Space) -> None:
    loss = losses(space.n_units, 3)
    whole = drive(algo, space, loss, seed=5)
    assert drive(algo, space, loss, seed=5) == whole
    half = len(whole.batches) // 2
    assert drive(algo, space, loss, seed=5, known=whole.losses[:half]) == whole


@pytest.mark.parametrize("most", [1, 3, 20])
def test_a_search_that_is_stopped_returns_a_mask_of_the_space(algo: Algo, space: Space, most: int) -> None:
    for search in settings(algo):
        limited = replace(search, max_evaluations=most)  # type: ignore[type-var]
        run = drive(limited, space, losses(space.n_units, 7))
        assert run.answer in space
        assert len({*run.asked}) <= most


def test_a_race_changes_nothing(algo: Algo) -> None:
    space = budgeted(0.3, n_blocks=8)
    for search in settings(algo):
        loss = losses(space.n_units, 1, 3.0)
        raced, whole = drive(search, space, loss, racing=True), drive(search, space, loss)
        assert raced.answer == whole.answer
        assert {*whole.asked} == {*raced.asked}, "infinite losses must not affect the search"


@pytest.mark.parametrize("name", sorted(OPTIMAL))
def test_the_optimum_of_a_pairwise_loss_is_found(algos: dict[str, Algo], name: str, space: Space) -> None:
    for seed in range(3):
        loss = losses(space.n_units, seed, 3.0)
        assert drive(algos[name], space, loss, seed).answer == optimum(space, loss)


@pytest.mark.parametrize("where", ["attention only", "MLPs only", "k sub-layers", "k attentions"])
@pytest.mark.parametrize("name", sorted(ADDITIVE))
def test_the_optimum_of_an_additive_loss_is_found_if_units_cost_the_same(
    algos: dict[str, Algo], name: str, where: str
) -> None:
    for seed in range(3):
        loss = losses(2 * N, seed, 0.0)
        assert drive(algos[name], SPACES[where], loss, seed).answer == optimum(SPACES[where], loss)


@pytest.mark.parametrize("name", ["one_shot", "greedy", "beam", "local_search", "annealing", "evolution"])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_whose_parts_have_the_same_rise_per_cost_go_as_a_whole(
    algos: dict[str, Algo], name: str, seed: int
) -> None:
    rates = random.Random(seed).sample([0.1, 0.2, 0.3, 0.5, 0.7, 0.9], N)
    space = budgeted(0.5)
    assert space.budget is not None
    costs = space.budget.costs

    def loss(mask: Mask) -> float:
        return 2.0 + sum(rates[u // 2] * costs[u] for u in mask.dropped)

    best = optimum(space, loss)
    assert drive(algos[name], space, loss).answer == best
    assert len(best.dropped) == 2 * len(best.gone) == N


def test_by_loss_the_cheapest_units_are_taken_whatever_they_cost(algos: dict[str, Algo]) -> None:
    rises = [0.2, 0.5, 0.2, 0.5, 0.25, 0.9, 0.3, 0.9, 0.3, 0.9, 0.3, 0.9]

    def loss(mask: Mask) -> float:
        return 1.0 + sum(rises[u] for u in mask.dropped)

    space = budgeted(1 / 6)  # four units of cost: an attention and an MLP, or four attentions
    for name in ("one_shot", "greedy"):
        by_cost, by_loss = (drive(ranking(algos[name], rank), space, loss) for rank in ("cost", "loss"))
        assert by_cost.answer.names() == ("b0",)
        assert by_loss.answer.names() == ("a0", "a1", "a2", "a3")
        assert space.dense in by_cost.asked
        assert space.dense not in by_loss.asked


def test_without_a_budget_both_ranks_are_the_same(algos: dict[str, Algo]) -> None:
    space, loss = Space(9, 4), pairwise(9, 3, 2.0)
    for name in ("one_shot", "greedy", "beam"):
        by_cost, by_loss = (drive(ranking(algos[name], rank), space, loss) for rank in ("cost", "loss"))
        assert by_cost == by_loss


def test_local_search_ends_when_no_exchange_helps(algos: dict[str, Algo]) -> None:
    space = budgeted(0.5)
    found = 0
    for seed in range(6):
        loss = losses(2 * N, seed, 2.0)
        run = drive(algos["local_search"], space, loss)
        swaps = [
            space.drop(*({*run.answer.dropped} - {back}), new)
            for back in run.answer.dropped
            for new in space.free(run.answer.dropped)
        ]
        assert all(loss(run.answer) <= loss(mask) for mask in swaps if mask in space)
        starts = [drive(algos[name], space, loss).answer for name in ("one_shot", "greedy")]
        assert loss(run.answer) <= min(map(loss, starts))
        found += run.answer == optimum(space, loss)
    assert found >= 3


def test_random_scores_a_space_that_is_as_small_as_its_trials(algos: dict[str, Algo]) -> None:
    space = SPACES["a quarter"]
    run = drive(replace(algos["random"], trials=space.size - 1), space, losses(2 * N, 0))  # type: ignore[type-var]
    assert len({*run.asked}) == space.size - 1
    assert np.isfinite(run.losses[0]).all()
