"""The requirements on every search of `conf/algo`. A new search is tested automatically."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from pruning.algo import Algo, Ask, Gates
from pruning.config.app import register
from pruning.config.groups import CONF, options
from pruning.core.mask import Mask, Space
from pruning.search import driver
from tests.helpers.spaces import sublayer_space

Loss = Callable[[Mask], float]
GOLDEN = Path(__file__).parent / "golden" / "masks.json"
SPACES = {
    "plain": Space(7, 3),
    "ends protected": Space(8, 3, frozenset({0, 7})),
    "one block": Space(6, 1),
    "all unprotected": Space(7, 4, frozenset({0, 1, 6})),
}


# Searches for which this holds for any losses and any seed. Others may reach it by luck.
OPTIMAL = {"cbo", "exhaustive"}  # if the loss has no more than pairwise terms
OPTIMAL_IF_ADDITIVE = OPTIMAL | {
    *("annealing", "bayesian", "beam", "cbo_hessian", "evolution", "fast_block_select"),
    *("genetic", "greedy", "local_search", "one_shot"),
}
NEVER_WORSE_THAN_ONE_SHOT = OPTIMAL | {"annealing", "bayesian", "evolution", "genetic", "local_search"}


@dataclass(frozen=True)
class Run:
    """The requests of a search, the losses that it received, its answer, and why it stopped."""

    requests: tuple[Ask, ...]
    losses: tuple[tuple[float, ...], ...]
    answer: Mask
    why: str

    @property
    def batches(self) -> list[tuple[Mask, ...]]:
        return [tuple(request.masks) for request in self.requests]

    @property
    def asked(self) -> list[Mask]:
        return [mask for batch in self.batches for mask in batch]

    @property
    def scores(self) -> list[tuple[Mask, int | None]]:
        """The mask and the number of samples of each loss that was asked for."""
        return [(mask, request.samples) for request in self.requests for mask in request.masks]


def drive(
    algo: Algo,
    space: Space,
    loss: Loss,
    seed: int = 0,
    known: Sequence[Sequence[float]] = (),
    gradient: Loss | None = None,
    racing: bool = False,
) -> Run:
    """Run a search. `known` gives the losses of the first batches, as a journal would.

    Gates are those of `gradient`, by default of the loss. With `racing`, losses that do not matter are infinite.
    """
    proposals = driver.counted_proposals(algo, space, np.random.default_rng(seed))
    requests: list[Ask] = []
    losses: list[tuple[float, ...]] = []
    try:
        request = next(proposals)
        while True:
            if isinstance(request, Gates):
                request = proposals.send(gates(space, gradient or loss))
                continue
            requests.append(replace(request, masks=tuple(request.masks)))
            replayed = len(losses) < len(known)
            losses.append(tuple(known[len(losses)]) if replayed else answer(request, loss, racing))
            request = proposals.send(list(losses[-1]))
    except StopIteration as end:
        return Run(tuple(requests), tuple(losses), end.value.mask, end.value.why)


def answer(request: Ask, loss: Loss, racing: bool) -> tuple[float, ...]:
    """Losses over all samples, or over some of them: then each has a small, reproducible deviation."""
    candidates = [*request.known, *request.masks]
    losses = [loss(mask) + deviation(mask, request.samples) for mask in candidates]
    if racing and request.best is not None:
        rise, values = request.rise, losses
        if rise is not None:
            values = [rise.rate(m, v, loss(rise.base)) for m, v in zip(candidates, losses, strict=True)]
        last = sorted(values)[: request.best][-1]
        losses = [found if value <= last else math.inf for value, found in zip(values, losses, strict=True)]
    return tuple(losses)


def deviation(mask: Mask, samples: int | None) -> float:
    if samples is None:
        return 0.0
    return 0.1 * (random.Random(f"{samples} {mask.dropped}").random() - 0.5) / samples


def gates(space: Space, loss: Loss, samples: int = 8) -> np.ndarray:
    """The secant of a loss, with a little noise for each sample."""
    falls = np.array([loss(space.dense) - loss(space.drop(i)) for i in range(space.n_units)])
    return falls * (1 + 0.01 * np.random.default_rng(0).standard_normal((samples, space.n_units)))


@cache
def pairwise(n_blocks: int, seed: int, strength: float = 1.0) -> Loss:
    """A loss with a term for each block and each pair. `random.Random` gives the same numbers on every platform."""
    numbers = random.Random(seed)
    single = [numbers.random() for _ in range(n_blocks)]
    pair = {both: strength * (numbers.random() - 0.5) for both in combinations(range(n_blocks), 2)}

    def loss(mask: Mask) -> float:
        return sum(single[i] for i in mask.dropped) + sum(pair[p] for p in combinations(mask.dropped, 2))

    return loss


def optimum(space: Space, loss: Loss) -> Mask:
    return min((space.drop(*s) for s in combinations(space.free(), space.k)), key=loss)


# Searches agree on the first problem and differ on the second, which shows if a search changes.
PROBLEMS = {
    "10 blocks": (Space(10, 4), pairwise(10, 2604)),
    "18 blocks": (Space(18, 6), pairwise(18, 2604, 2.0)),
}


def configured() -> dict[str, Algo]:
    """Every search with the settings of its YAML file."""
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return {name: instantiate(compose("config", [f"algo={name}"]).algo) for name in options("algo")}


@pytest.fixture(scope="module")
def algos() -> dict[str, Algo]:
    return configured()


@pytest.fixture(params=options("algo"))
def algo(request: pytest.FixtureRequest, algos: dict[str, Algo]) -> Algo:
    return algos[request.param]


@pytest.fixture(params=list(SPACES.values()), ids=list(SPACES))
def space(request: pytest.FixtureRequest) -> Space:
    chosen: Space = request.param
    return chosen


def test_the_answer_is_in_the_space(algo: Algo, space: Space) -> None:
    mask = drive(algo, space, pairwise(space.n_blocks, 1)).answer
    assert mask.n_blocks == space.n_blocks
    assert len(mask.dropped) == space.k
    assert not space.protected & set(mask.dropped)


def test_no_protected_block_is_ever_asked_for(algo: Algo, space: Space) -> None:
    for mask in drive(algo, space, pairwise(space.n_blocks, 2)).asked:
        assert mask.n_blocks == space.n_blocks
        assert not space.protected & set(mask.dropped)


def test_the_same_seed_gives_the_same_run(algo: Algo, space: Space) -> None:
    loss = pairwise(space.n_blocks, 3)
    assert drive(algo, space, loss, seed=5) == drive(algo, space, loss, seed=5)


def test_a_search_resumes_after_any_batch(algo: Algo, space: Space) -> None:
    loss = pairwise(space.n_blocks, 4)
    whole = drive(algo, space, loss, seed=1)
    for stopped in range(len(whole.batches) + 1):
        computed: list[Mask] = []

        def counted(mask: Mask, computed: list[Mask] = computed) -> float:
            computed.append(mask)
            return loss(mask)

        again = drive(algo, space, counted, seed=1, known=whole.losses[:stopped], gradient=loss)
        assert again == whole
        assert computed == [mask for batch in whole.batches[stopped:] for mask in batch]


def test_no_mask_is_asked_for_twice_on_the_same_samples(algo: Algo, space: Space) -> None:
    scores = drive(algo, space, pairwise(space.n_blocks, 5)).scores
    assert len(scores) == len(set(scores))


def test_no_batch_is_empty(algo: Algo, space: Space) -> None:
    assert all(drive(algo, space, pairwise(space.n_blocks, 5)).batches)


def test_evaluations_is_an_upper_bound(algo: Algo, space: Space) -> None:
    for seed in range(4):
        scores = drive(algo, space, pairwise(space.n_blocks, seed), seed).scores
        assert len(scores) <= algo.evaluations(space)


@pytest.mark.parametrize("most", [1, 2, 5, 12, 1000])
def test_no_more_masks_are_asked_for_than_max_evaluations(algo: Algo, space: Space, most: int) -> None:
    assert algo.max_evaluations is None, "the default is no limit"
    limited = replace(algo, max_evaluations=most)  # type: ignore[type-var]
    loss = pairwise(space.n_blocks, 7)
    run, whole = drive(limited, space, loss), drive(algo, space, loss)
    assert len(set(run.asked)) <= most
    assert len(run.answer.dropped) == space.k
    assert not space.protected & set(run.answer.dropped)
    if run.why == whole.why:
        assert run == whole
    else:
        assert run.why == f"max_evaluations={most} was reached"


def test_it_says_why_it_stopped(algo: Algo, space: Space) -> None:
    why = drive(algo, space, pairwise(space.n_blocks, 8)).why
    assert why == why.strip() != ""


@pytest.mark.parametrize(
    "space",
    [Space(14, 5, frozenset({0})), sublayer_space(7, 0.3, None, (1, 3) * 7)],
    ids=["count", "budget"],
)
def test_a_race_changes_nothing(algo: Algo, space: Space) -> None:
    for seed in range(3):  # most searches score only a part of the space
        loss = pairwise(space.n_units, seed, strength=3.0)
        raced, whole = drive(algo, space, loss, seed, racing=True), drive(algo, space, loss, seed)
        assert raced.answer == whole.answer
        if space.budget is None:
            assert raced.requests == whole.requests, "infinite losses must not affect the search"
        else:  # a mask that is ruled out by its rise per cost may be asked for again
            assert {*raced.asked} == {*whole.asked}


@pytest.mark.parametrize("name", ["greedy", "one_shot"])
def test_evaluations_is_exact_if_it_can_be(algos: dict[str, Algo], name: str, space: Space) -> None:
    run = drive(algos[name], space, pairwise(space.n_blocks, 6))
    assert len(run.asked) == algos[name].evaluations(space)


@pytest.mark.parametrize("name", sorted(OPTIMAL_IF_ADDITIVE))
def test_the_optimum_of_an_additive_loss_is_found(algos: dict[str, Algo], name: str, space: Space) -> None:
    for seed in range(4):
        loss = pairwise(space.n_blocks, seed, strength=0.0)
        assert drive(algos[name], space, loss, seed).answer == optimum(space, loss)


@pytest.mark.parametrize("name", sorted(OPTIMAL))
def test_the_optimum_of_a_pairwise_loss_is_found(algos: dict[str, Algo], name: str, space: Space) -> None:
    for seed in range(4):
        loss = pairwise(space.n_units, seed, strength=3.0)
        assert drive(algos[name], space, loss, seed).answer == optimum(space, loss)


@pytest.mark.parametrize("name", sorted(NEVER_WORSE_THAN_ONE_SHOT))
def test_it_is_never_worse_than_one_shot(algos: dict[str, Algo], name: str) -> None:
    space = Space(14, 5)  # too large for any of them to score all masks, except exhaustive
    for seed in range(6):
        loss = pairwise(space.n_units, seed, strength=3.0)
        assert loss(drive(algos[name], space, loss, seed).answer) <= loss(
            drive(algos["one_shot"], space, loss).answer
        )


def test_greedy_sees_an_interaction_that_one_shot_does_not(algos: dict[str, Algo]) -> None:
    single = (0.1, 0.2, 0.9, 0.3)
    together: dict[tuple[int, ...], float] = {(0, 1): 2.0, (0, 3): 0.1}

    def loss(mask: Mask) -> float:
        return sum(single[i] for i in mask.dropped) + together.get(mask.dropped, 0.0)

    space = Space(4, 2)
    assert optimum(space, loss).dropped == (0, 3), "0 and 1 are cheap alone and expensive together"
    assert drive(algos["greedy"], space, loss).answer.dropped == (0, 3)
    assert drive(algos["one_shot"], space, loss).answer.dropped == (0, 1)


@pytest.mark.parametrize("name", ["greedy", "one_shot"])
def test_ties_go_to_the_lower_index(algos: dict[str, Algo], name: str) -> None:
    def loss(mask: Mask) -> float:
        return float(sum(i % 2 for i in mask.dropped))

    space = Space(50, 5, frozenset({2}))  # an unstable sort keeps the order of short arrays only
    assert drive(algos[name], space, loss).answer.dropped == (0, 4, 6, 8, 10)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", options("algo"))
def test_the_answer_is_the_recorded_one(algos: dict[str, Algo], name: str, problem: str) -> None:
    dropped = list(drive(algos[name], *PROBLEMS[problem]).answer.dropped)
    golden = json.loads(GOLDEN.read_text())[problem]
    if name not in golden:
        pytest.skip(f'{GOLDEN} has no answer for algo={name}: add "{name}": {dropped} to "{problem}"')
    assert dropped == golden[name], f"algo={name} found {dropped}, but {GOLDEN} has {golden[name]}"


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_recorded_answers_of_exact_searches_are_the_optimum_by_enumeration(problem: str) -> None:
    best, golden = list(optimum(*PROBLEMS[problem]).dropped), json.loads(GOLDEN.read_text())[problem]
    assert {name: golden[name] for name in OPTIMAL} == dict.fromkeys(OPTIMAL, best)


def test_every_recorded_answer_belongs_to_a_search() -> None:
    assert all(golden.keys() <= set(options("algo")) for golden in json.loads(GOLDEN.read_text()).values())
