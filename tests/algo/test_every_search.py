"""The requirements on every search of `conf/algo`, in spaces of k units and of budgets. A new search is included."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pruning.algo import Algo, Ask
from pruning.config.groups import options
from pruning.core.mask import Mask, Space
from pruning.search.decide import Racing
from tests.helpers.searches import TermLosses, configured, drive, optimum, pairwise, solved
from tests.helpers.spaces import sublayer_space

GOLDEN = Path(__file__).parent / "golden" / "masks.json"
N = 6
COSTS = (1.0, 3.0) * N  # an attention and an MLP


def budgeted(ratio: float, kinds: str = "am", first: int = 0, last: int = 0) -> Space:
    return sublayer_space(N, ratio, None, COSTS, kinds, first, last)


COUNTS = {
    "plain": Space(7, 3),
    "ends protected": Space(8, 3, frozenset({0, 7})),
    "one block": Space(6, 1),
    "all unprotected": Space(7, 4, frozenset({0, 1, 6})),
    "k sub-layers": sublayer_space(N, None, 4, COSTS, first=1),
    "k attentions": sublayer_space(N, None, 3, COSTS, "a"),
}
BUDGETS = {
    "a sixth": budgeted(1 / 6),
    "a half": budgeted(0.5),
    "budget, ends protected": budgeted(0.3, first=1, last=1),
    "attention only": budgeted(0.1, "a"),
    "MLPs only": budgeted(0.3, "m"),
    "one mask": budgeted(0.25, "a"),
    "unequal blocks": sublayer_space(N, 0.35, None, [*(2.0, 3.0, 1.0, 5.0) * 2, 1.5, 2.5, 4.0, 4.0]),
}
SPACES = COUNTS | BUDGETS
ALIKE = {**COUNTS, **{name: BUDGETS[name] for name in ("attention only", "MLPs only")}}  # units cost the same

# Searches for which this holds for any losses and any seed. Others may reach it by luck.
OPTIMAL = {"cbo", "exhaustive"}  # if the loss has no more than pairwise terms
NEVER_WORSE_THAN_ONE_SHOT = OPTIMAL | {"annealing", "bayesian", "evolution", "genetic", "local_search"}
OPTIMAL_IF_ADDITIVE = NEVER_WORSE_THAN_ONE_SHOT | {
    *("beam", "cbo_hessian", "fast_block_select", "greedy", "one_shot"),
}
# Searches agree on the first problem and differ on the second, which shows if a search changes.
PROBLEMS = {
    "10 blocks": (Space(10, 4), pairwise(10, 2604)),
    "18 blocks": (Space(18, 6), pairwise(18, 2604, 2.0)),
}


@pytest.fixture(scope="module")
def algos() -> dict[str, Algo]:
    return configured()


@pytest.fixture(params=options("algo"))
def algo(request: pytest.FixtureRequest, algos: dict[str, Algo]) -> Algo:
    return quick(algos[request.param])


@pytest.fixture(params=list(SPACES.values()), ids=list(SPACES))
def space(request: pytest.FixtureRequest) -> Space:
    chosen: Space = request.param
    return chosen


def quick(algo: Algo) -> Algo:
    """The search, with fewer trials if it fits a surrogate to each batch of them."""
    return replace(algo, trials=60) if hasattr(algo, "kappa") else algo  # type: ignore[type-var]


def variants(algo: Algo) -> Iterator[Algo]:
    """The search, and with each of its settings for budgets."""
    yield algo
    for name, value in (("rank", "loss"), ("within", "kind"), ("lazy", 0.05)):
        if hasattr(algo, name):
            yield replace(algo, **{name: value})  # type: ignore[type-var]


def test_the_answer_is_in_the_space_and_what_is_asked_for_is_needed(algo: Algo, space: Space) -> None:
    for seed, search in enumerate(variants(algo)):
        run = drive(search, space, pairwise(space.n_units, seed, dense=3.0), seed)
        assert run.answer in space
        assert run.why == run.why.strip() != ""
        assert all(run.batches), "no batch is empty"
        assert len({*run.scores}) <= search.evaluations(space)
        assert not any(space.protected & {*mask.dropped} for mask in run.asked)
        assert all((mask.n_blocks, mask.unit) == (space.n_blocks, space.unit) for mask in run.asked)
        rises = {m for r in run.requests if isinstance(r, Ask) and r.rise is not None for m in r.masks}
        repeated = {score[0] for score in run.scores if run.scores.count(score) > 1}
        assert repeated <= rises, "only what a rise per cost can rule out is asked for twice"


def test_a_run_depends_on_seed_and_losses_only_so_it_resumes_after_any_batch(
    algo: Algo, space: Space
) -> None:
    loss = pairwise(space.n_units, 4, dense=3.0)
    whole = drive(algo, space, loss, seed=1)
    ends = range(len(whole.batches) + 1)
    for stopped in ends if len(ends) < 12 else (0, len(ends) // 2, len(ends) - 1):
        computed: list[Mask] = []

        def counted(mask: Mask, computed: list[Mask] = computed) -> float:
            computed.append(mask)
            return loss(mask)

        again = drive(algo, space, counted, seed=1, known=whole.losses[:stopped], gradient=loss)
        assert again == whole
        assert computed == [mask for batch in whole.batches[stopped:] for mask in batch]


@pytest.mark.parametrize("most", [1, 3, 12, 1000])
def test_no_more_masks_are_asked_for_than_max_evaluations(algo: Algo, space: Space, most: int) -> None:
    for search in variants(algo):
        loss = pairwise(space.n_units, 7, dense=3.0)
        run, whole = drive(search, space, loss, most=most), drive(search, space, loss)
        assert run.answer in space
        assert len({*run.asked}) <= most
        assert run == whole or run.why == f"max_evaluations={most} was reached"


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


@pytest.mark.parametrize("delta", [None, 0.01], ids=["plain", "racing"])
def test_a_truncated_journal_is_completed_to_the_same_bytes(
    algo: Algo, delta: float | None, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    single, common, space = rng.exponential(0.5, 8), rng.normal(0, 1, 32), Space(8, 3)

    def losses() -> TermLosses:
        return TermLosses(
            lambda mask: 3 + sum(single[list(mask.dropped)]) + common + noise(mask, 32, 0.1), 32
        )

    racing = Racing(delta)
    whole, journal = solved(tmp_path, losses(), algo, space, racing)
    assert journal.path is not None
    data = journal.path.read_bytes()
    for part in (0, 0.21, 0.5, 0.83, 0.99):
        size, folder, rest = int(part * len(data)), tmp_path / f"cut{part}", losses()
        shutil.copytree(tmp_path / "scores", folder / "scores")
        (folder / "cell").mkdir()
        (folder / "cell" / "trace.jsonl").write_bytes(data[:size])
        resumed, again = solved(folder, rest, algo, space, racing)
        assert (resumed.score, resumed.why, resumed.margins) == (whole.score, whole.why, whole.margins)
        assert (resumed.asked, resumed.paid) == (whole.asked, whole.paid)
        assert again.path is not None
        assert again.path.read_bytes() == data
        assert len(rest.computed) == data.count(b"\n") - data[:size].count(b"\n")
    plain, journal = solved(tmp_path, losses(), algo, space, cell="plain")
    assert plain.score.samples == whole.score.samples
    assert all(len(score.samples) == 32 for score in journal.scores.values() if score.of is None)


def noise(mask: Mask, samples: int, size: float) -> np.ndarray:
    return np.random.default_rng([1, *mask.dropped]).normal(0, size, samples)


@pytest.mark.parametrize("name", ["greedy", "one_shot"])
@pytest.mark.parametrize("where", COUNTS)
def test_evaluations_is_exact_if_it_can_be(algos: dict[str, Algo], name: str, where: str) -> None:
    run = drive(algos[name], COUNTS[where], pairwise(COUNTS[where].n_units, 6))
    assert len(run.asked) == algos[name].evaluations(COUNTS[where])


@pytest.mark.parametrize("where", ALIKE)
@pytest.mark.parametrize("name", sorted(OPTIMAL_IF_ADDITIVE))
def test_the_optimum_of_an_additive_loss_is_found_if_units_cost_the_same(
    algos: dict[str, Algo], name: str, where: str
) -> None:
    for seed in range(3):
        loss = pairwise(ALIKE[where].n_units, seed, strength=0.0, dense=3.0)
        assert drive(quick(algos[name]), ALIKE[where], loss, seed).answer == optimum(ALIKE[where], loss)


@pytest.mark.parametrize("name", sorted(OPTIMAL))
def test_the_optimum_of_a_pairwise_loss_is_found(algos: dict[str, Algo], name: str, space: Space) -> None:
    for seed in range(3):
        loss = pairwise(space.n_units, seed, strength=3.0, dense=3.0)
        assert drive(algos[name], space, loss, seed).answer == optimum(space, loss)


@pytest.mark.parametrize("name", ["annealing", "bayesian", "beam", "evolution", "genetic", "local_search"])
def test_the_optimum_of_most_small_pairwise_losses_is_found(algos: dict[str, Algo], name: str) -> None:
    space, losses = Space(12, 4), [pairwise(12, seed, 2.0) for seed in range(8)]
    answers = [drive(quick(algos[name]), space, loss, seed).answer for seed, loss in enumerate(losses)]
    found = sum(mask == optimum(space, loss) for mask, loss in zip(answers, losses, strict=True))
    starts = [drive(algos["one_shot"], space, loss).answer for loss in losses]
    gained = [loss(a) <= loss(b) for a, b, loss in zip(answers, starts, losses, strict=True)]
    assert found >= {"annealing": 6, "bayesian": 7, "beam": 7, "evolution": 5, "genetic": 3}.get(name, 4)
    assert all(gained)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", options("algo"))
def test_the_answer_is_the_recorded_one(algos: dict[str, Algo], name: str, problem: str) -> None:
    dropped = list(drive(algos[name], *PROBLEMS[problem]).answer.dropped)
    golden = json.loads(GOLDEN.read_text())[problem]
    if name not in golden:
        pytest.skip(f'{GOLDEN} has no answer for algo={name}: add "{name}": {dropped} to "{problem}"')
    assert dropped == golden[name], f"algo={name} found {dropped}, but {GOLDEN} has {golden[name]}"


def test_recorded_answers_belong_to_searches_and_exact_ones_are_the_optimum() -> None:
    for problem, golden in json.loads(GOLDEN.read_text()).items():
        best = list(optimum(*PROBLEMS[problem]).dropped)
        assert golden.keys() <= set(options("algo"))
        assert {name: golden[name] for name in OPTIMAL} == dict.fromkeys(OPTIMAL, best)
