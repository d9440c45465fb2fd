from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from pruning.algo import Algo, Ask, Found, Proposals
from pruning.algo.exhaustive import Exhaustive
from pruning.algo.greedy import Greedy
from pruning.algo.one_shot import OneShot
from pruning.core.errors import LossError
from pruning.core.mask import Mask, Space
from pruning.core.scoring import Estimate, Score
from pruning.objective import Loss
from pruning.search.choice import Racing
from pruning.search.driver import Problem, Solution, _checked, best_so_far, solve
from pruning.search.journal import Journal, KnownScores, Store
from tests.helpers.spaces import sublayer_space

N, K = 6, 3
SINGLE = (0.9, 0.2, 0.5, 0.25, 0.7, 0.4)
PAIRS = {(1, 3): 2.0, (1, 5): -0.1, (2, 5): 0.3}  # the extra loss if both blocks are removed
SPACE = Space(N, K)


def additive(mask: Mask) -> float:
    return 3.0 + sum(SINGLE[i] for i in mask.dropped)


def quadratic(mask: Mask) -> float:
    return additive(mask) + sum(PAIRS.get(pair, 0.0) for pair in combinations(mask.dropped, 2))


class Losses:
    """Losses of one sample each, from a dict; `computed` lists the masks in the order computed."""

    def __init__(self, loss: Callable[[Mask], float] = quadratic, backwards: bool = False) -> None:
        every = (Mask(N, d) for k in range(N + 1) for d in combinations(range(N), k))
        self.table = {mask: loss(mask) for mask in every}
        self.backwards = backwards
        self.computed: list[Mask] = []

    @property
    def whole(self) -> Loss:
        return Loss(Estimate((1.0,), (0,)), self.terms)

    def part(self, start: int, stop: int) -> Loss:
        assert (start, stop) == (0, 1)
        return self.whole

    def terms(self, masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
        for mask in reversed(masks) if self.backwards else masks:
            self.computed.append(mask)
            yield mask, (self.table[mask],), 0.25


class Fixed:
    """A search that asks for given batches, whatever their losses, and returns a given answer."""

    max_evaluations = None

    def __init__(self, batches: Sequence[Sequence[Mask]], answer: Mask) -> None:
        self.batches, self.answer = batches, answer
        self.received: list[Sequence[float]] = []

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        for batch in self.batches:
            self.received.append((yield Ask(batch)))
        return Found(self.answer, "there was no more to ask")

    def evaluations(self, space: Space) -> int:  # noqa: ARG002
        return sum(map(len, self.batches))


def search(
    folder: Path, losses: Losses, algo: Algo, cell: str = "cell", share: bool = True
) -> tuple[Solution, Journal]:
    store = Store(folder, "key", cell, N, share)
    store.claim()
    (folder / cell).mkdir(exist_ok=True)
    journal = Journal.open(folder / cell / "trace.jsonl", N)
    return solve(
        Problem(algo, SPACE, 0, Racing()), losses, KnownScores(journal, store), lambda *_: None
    ), journal


ALGOS = [pytest.param(Greedy(), id="greedy"), pytest.param(OneShot(), id="one_shot")]


@pytest.mark.parametrize(
    ("algo", "loss"), [(a, f) for a in (Greedy(), OneShot()) for f in (additive, quadratic)]
)
def test_the_answer_is_scored_and_nothing_is_computed_twice(
    tmp_path: Path, algo: Algo, loss: Callable[[Mask], float]
) -> None:
    losses = Losses(loss)
    solution, journal = search(tmp_path, losses, algo)
    assert len(solution.score.mask.dropped) == K
    assert solution.score.loss == loss(solution.score.mask)
    assert solution.dense.loss == loss(Mask(N)) == 3.0
    assert len(losses.computed) == len(set(losses.computed))
    assert list(journal.scores) == losses.computed


def test_one_shot_asks_and_pays_for_each_block(tmp_path: Path) -> None:
    losses = Losses()
    solution, _ = search(tmp_path, losses, OneShot())
    assert (solution.asked, solution.paid) == (N, N)
    assert len(losses.computed) == N + 2, "also computed: the dense model and the answer"
    assert solution.score.mask.dropped == (1, 3, 5), "the cheapest three, whatever they cost together"


def test_greedy_asks_and_pays_for_a_round_a_block(tmp_path: Path) -> None:
    losses = Losses()
    solution, _ = search(tmp_path, losses, Greedy())
    assert solution.asked == solution.paid == N + (N - 1) + (N - 2)
    assert len(losses.computed) == solution.asked + 1, "also computed: the dense model"
    assert solution.score.mask.dropped == (1, 4, 5)


@pytest.mark.parametrize("algo", ALGOS)
def test_resuming_from_any_part_of_the_journal_ends_the_same_and_pays_the_rest(
    tmp_path: Path, algo: Algo
) -> None:
    whole, journal = search(tmp_path, Losses(), algo)
    data = journal.path.read_bytes()
    for length in range(len(data) + 1):
        folder = tmp_path / f"cut{length}"
        shutil.copytree(tmp_path / "scores", folder / "scores")
        (folder / "cell").mkdir()
        (folder / "cell" / "trace.jsonl").write_bytes(data[:length])
        losses = Losses()
        resumed, again = search(folder, losses, algo)
        assert resumed.score == whole.score
        assert (resumed.asked, resumed.paid) == (whole.asked, whole.paid)
        assert len(losses.computed) == data.count(b"\n") - data[:length].count(b"\n")
        assert list(again.scores.values()) == list(journal.scores.values())
        assert again.path.read_bytes() == data


def test_seconds_add_up_over_a_resumed_search(tmp_path: Path) -> None:
    search(tmp_path, Losses(), Greedy())
    losses = Losses()
    resumed, _ = search(tmp_path, losses, Greedy())
    assert losses.computed == []
    assert resumed.seconds >= 16 * 0.25


def test_what_another_cell_paid_for_is_not_paid_again(tmp_path: Path) -> None:
    search(tmp_path, Losses(), OneShot(), "first")
    losses = Losses()
    solution, journal = search(tmp_path, losses, Greedy(), "second")
    assert solution.asked == 15
    assert solution.paid == len(losses.computed) == 8, (
        "known: the dense model, the first round, and (1, 3, 5)"
    )
    assert sum(score.seconds == 0 for score in journal.scores.values()) == 1 + N + 1
    again, _ = search(tmp_path, Losses(), Greedy(), "second")
    assert again.paid == 8, "a resumed search still does not count the other cell's scores as paid"


def test_a_cell_that_does_not_share_pays_for_everything(tmp_path: Path) -> None:
    search(tmp_path, Losses(), OneShot(), "first")
    solution, _ = search(tmp_path, Losses(), Greedy(), "second", share=False)
    assert solution.paid == solution.asked == 15


def test_a_mask_that_is_asked_for_again_is_answered_but_not_computed(tmp_path: Path) -> None:
    losses, a, b = Losses(), Mask(N, (0, 1, 2)), Mask(N, (3, 4, 5))
    algo = Fixed([[a, b, a], [b]], answer=b)
    solution, _ = search(tmp_path, losses, algo)
    assert (solution.asked, solution.paid) == (4, 2)
    assert losses.computed == [Mask(N), a, b]
    first, second = quadratic(a), quadratic(b)
    assert algo.received == [[first, second, first], [second]]


@pytest.mark.parametrize("algo", ALGOS)
def test_losses_may_come_in_any_order(tmp_path: Path, algo: Algo) -> None:
    forwards, _ = search(tmp_path, Losses(), algo, "a", share=False)
    backwards, _ = search(tmp_path, Losses(backwards=True), algo, "b", share=False)
    assert backwards.score == forwards.score


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_search_and_keeps_the_rest(tmp_path: Path, bad: float) -> None:
    losses = Losses()
    losses.table[Mask(N, (1, 4))] = bad
    with pytest.raises(LossError, match=r"\[1, 4\]"):
        search(tmp_path, losses, Greedy())
    kept = Journal.open(tmp_path / "cell" / "trace.jsonl", N)
    assert list(kept.scores) == losses.computed[:-1]
    assert losses.computed[-1] == Mask(N, (1, 4))
    mended = Losses()
    solution, _ = search(tmp_path, mended, Greedy())
    assert mended.computed[0] == Mask(N, (1, 4))
    assert solution.score.mask.dropped == (1, 4, 5)


@pytest.mark.parametrize("answer", [(0, 1), (0, 1, 2, 3), (0, 1, 5)])
def test_an_answer_outside_of_the_space_is_refused(tmp_path: Path, answer: tuple[int, ...]) -> None:
    algo = Fixed([[Mask(N, (0,))]], Mask(N, answer))
    store, journal = Store(tmp_path, "key", "cell", N, share=False), Journal.open(tmp_path / "t.jsonl", N)
    with pytest.raises(AssertionError, match="is not in"):
        solve(
            Problem(algo, Space(N, K, frozenset({5})), 0, Racing()),
            Losses(),
            KnownScores(journal, store),
            lambda *_: None,
        )


def test_the_watch_gets_each_score_and_the_best_of_the_largest_masks(tmp_path: Path) -> None:
    calls: list[tuple[int, float, int]] = []
    store, journal = Store(tmp_path, "key", "cell", N, share=False), Journal.open(tmp_path / "t.jsonl", N)
    solve(
        Problem(OneShot(), SPACE, 0, Racing()),
        Losses(additive),
        KnownScores(journal, store),
        lambda *call: calls.append(call),
    )
    assert [number for number, *_ in calls] == list(range(1, N + 3))
    assert [best for _, best, _ in calls] == pytest.approx([3.0, 3.9, 3.2, 3.2, 3.2, 3.2, 3.2, 3.85])
    assert [size for *_, size in calls] == [0, *[1] * N, SPACE.k]


def test_best_so_far_falls_and_counts_all_scores() -> None:
    losses = {(0,): 0.1, (0, 1): 5.0, (0, 2): 6.0, (1, 2): 4.0, (2,): 0.2, (2, 3): 4.5}
    scores = [Score(Mask(N, d), loss, (loss,), 1.0) for d, loss in losses.items()]
    assert list(best_so_far(scores, Space(N, 2).complete)) == [(2, 5.0), (3, 5.0), (4, 4.0), (6, 4.0)]
    assert list(best_so_far(scores, Space(N, 3).complete)) == []


def test_on_a_budget_masks_of_other_numbers_of_units_are_compared(tmp_path: Path) -> None:
    space = sublayer_space(3, 1 / 3, None, (1, 3) * 3)  # an attention and an MLP
    rises = (0.1, 0.9, 0.2, 0.6, 0.3, 0.8)
    every = [Mask(3, d, "sublayer") for n in range(7) for d in combinations(range(6), n)]
    losses = Losses()
    losses.table = {mask: 2.0 + sum(rises[u] for u in mask.dropped) for mask in every}
    journal = Journal.open(tmp_path / "t.jsonl", 3)
    store = Store(tmp_path, "key", "cell", 3, share=False)
    solution = solve(
        Problem(Exhaustive(), space, 0, Racing()), losses, KnownScores(journal, store), lambda *_: None
    )
    assert solution.score.mask.names() == ("a0", "m1")
    assert solution.margins["compared"] == space.size - 1 == 8
    curve = [loss for _, loss in best_so_far(list(journal.scores.values()), space.complete)]
    assert curve[-1] == pytest.approx(2.7)
    assert len(curve) == space.size, "the dense model is not counted"


@pytest.mark.parametrize(
    "mask",
    [Mask(3, (0,), "sublayer"), Mask(3, (0, 1), "sublayer"), Mask(6, (0, 3)), Mask(3, (2, 3), "sublayer")],
)
def test_a_mask_outside_of_the_space_is_never_a_result(mask: Mask) -> None:
    space = sublayer_space(3, 1 / 3, None, (1, 3) * 3, first=1)
    if mask in space:
        assert _checked(Found(mask, "why"), space).mask == mask
    else:
        with pytest.raises(AssertionError, match="which is not in"):
            _checked(Found(mask, "why"), space)
    assert (mask in space) == (mask.dropped == (2, 3))


@pytest.mark.parametrize("racing", [Racing(), Racing(delta=0.5, first=2)], ids=["whole", "race"])
def test_a_choice_in_several_requests_counts_each_mask_once_and_is_one_decision(
    tmp_path: Path, racing: Racing
) -> None:
    class Parts(Fixed):
        """The six masks of one block in two requests; the second leaves one out."""

        def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
            masks = [space.dense.drop(i) for i in range(N)]
            first = yield Ask(masks[:3], best=1, rest=3)
            both = yield Ask(masks[3:5], best=1, known=masks[:3], rest=1)
            assert both[:3] == first
            assert len(both) == 5
            return Found(space.drop(1, 3, 5), "there was no more to ask")

    losses = Losses()
    store = Store(tmp_path, "key", "cell", N, share=False)
    (tmp_path / "cell").mkdir()
    known = KnownScores(Journal.open(tmp_path / "cell" / "trace.jsonl", N), store)
    problem = Problem(Parts([], SPACE.dense), SPACE, 0, racing)
    solution = solve(problem, losses, known, lambda *_: None)
    assert solution.asked == 5
    (decided,) = solution.margins["decisions"]
    assert (decided["of"], decided["chosen"], decided["skipped"]) == (5, [1], 1)
