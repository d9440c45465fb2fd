"""A search as a cell runs it: what it asks for and pays for, how it is resumed, and how it is stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.algo import Algo, Ask, Lazy
from pruning.algo.greedy import Greedy
from pruning.algo.one_shot import OneShot
from pruning.core.errors import InputError, LossError
from pruning.core.mask import Mask, Space
from pruning.core.scoring import Score
from pruning.search import driver
from pruning.search.decide import Racing
from pruning.search.driver import best_so_far
from pruning.search.journal import Journal
from tests.helpers.searches import Scripted, TermLosses, solved
from tests.helpers.spaces import sublayer_space

N = 6
SINGLE = (0.9, 0.2, 0.5, 0.25, 0.7, 0.4)
PAIRS = {(1, 3): 2.0, (1, 5): -0.1, (2, 5): 0.3}  # the extra loss if both blocks are removed
SPACE = Space(N, 3)
LIMITED = Space(8, 3, frozenset({7}))


def additive(mask: Mask) -> float:
    return 3.0 + sum(SINGLE[i] for i in mask.dropped)


def quadratic(mask: Mask) -> float:
    return additive(mask) + sum(PAIRS.get(pair, 0.0) for pair in combinations(mask.dropped, 2))


def losses(loss: Callable[[Mask], float] = quadratic) -> TermLosses:
    """Losses of one sample each."""
    return TermLosses(lambda mask: np.array([loss(mask)]), 1)


ALGOS = [pytest.param(Greedy(), id="greedy"), pytest.param(OneShot(), id="one_shot")]


@pytest.mark.parametrize("loss", [additive, quadratic])
@pytest.mark.parametrize(
    ("algo", "paid", "extra", "answer"),
    [(OneShot(), N, 2, (1, 3, 5)), (Greedy(), N + (N - 1) + (N - 2), 1, (1, 4, 5))],
    ids=["one_shot", "greedy"],
)
def test_nothing_is_computed_twice_and_all_is_counted(
    tmp_path: Path, algo: Algo, paid: int, extra: int, answer: tuple[int, ...], loss: Callable[[Mask], float]
) -> None:
    table = losses(loss)
    solution, journal = solved(tmp_path, table, algo, SPACE)
    assert solution.score.mask.dropped == (answer if loss is quadratic else (1, 3, 5))
    assert solution.score.loss == loss(solution.score.mask)
    assert solution.dense.loss == loss(Mask(N)) == 3.0
    assert (solution.asked, solution.paid) == (paid, paid)
    assert len(table.masks) == len({*table.masks}) == paid + extra, "also the dense model and the answer"
    assert list(journal.scores) == table.masks


@pytest.mark.parametrize(("share", "paid"), [(True, 8), (False, 15)])
def test_what_another_cell_paid_for_is_not_paid_again_if_cells_share(
    tmp_path: Path, share: bool, paid: int
) -> None:
    solved(tmp_path, losses(), OneShot(), SPACE, cell="first")
    table = losses()
    solution, journal = solved(tmp_path, table, Greedy(), SPACE, cell="second", share=share)
    assert (solution.asked, solution.paid) == (15, paid)
    known = 1 + N + 1 if share else 0  # the dense model, the first round, and (1, 3, 5)
    assert sum(score.seconds == 0 for score in journal.scores.values()) == known
    assert len(table.computed) == 16 - known
    again, _ = solved(tmp_path, losses(), Greedy(), SPACE, cell="second", share=share)
    assert again.paid == paid, "a resumed search still does not count the other cell's scores as paid"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_search_and_keeps_the_rest(tmp_path: Path, bad: float) -> None:
    wrong = Mask(N, (1, 4))
    table = losses(lambda mask: bad if mask == wrong else quadratic(mask))
    with pytest.raises(LossError, match=r"\[1, 4\]"):
        solved(tmp_path, table, Greedy(), SPACE)
    kept = Journal.open(tmp_path / "cell" / "trace.jsonl", N)
    assert list(kept.scores) == table.masks[:-1]
    assert table.masks[-1] == wrong
    mended = losses()
    solution, _ = solved(tmp_path, mended, Greedy(), SPACE)
    assert mended.masks[0] == wrong
    assert solution.score.mask.dropped == (1, 4, 5)


def test_best_so_far_falls_and_counts_all_scores() -> None:
    table = {(0,): 0.1, (0, 1): 5.0, (0, 2): 6.0, (1, 2): 4.0, (2,): 0.2, (2, 3): 4.5}
    scores = [Score(Mask(N, d), loss, (loss,), 1.0) for d, loss in table.items()]
    assert list(best_so_far(scores, Space(N, 2).complete)) == [(2, 5.0), (3, 5.0), (4, 4.0), (6, 4.0)]
    assert list(best_so_far(scores, Space(N, 3).complete)) == []


@pytest.mark.parametrize("racing", [Racing(), Racing(delta=0.5)], ids=["whole", "race"])
def test_a_lazy_round_counts_each_scored_mask_once_and_is_one_decision(
    tmp_path: Path, racing: Racing
) -> None:
    received: list[float] = []

    def script(space: Space) -> Generator[Ask, Any, Mask]:
        """The masks of one block; the predictions are right except for block 1, and rule block 7 out."""
        masks = [space.dense.drop(i) for i in range(space.n_blocks)]
        predicted = {mask: 30.0 + 5 * i for i, mask in enumerate(masks)}
        received.extend((yield Ask(masks, best=1, lazy=Lazy(predicted, 0.05, 0.1, 100))))
        return space.drop(1, 3, 5)

    def term(mask: Mask) -> np.ndarray:
        """Terms of 16 samples that differ as much between samples, and a little from mask to mask."""
        loss = {0: 30, 1: 28, 7: 65}.get(mask.dropped[0], 30 + 5 * mask.dropped[0]) if mask.dropped else 0
        return loss + np.arange(16) + np.random.default_rng(mask.dropped).normal(0, 0.01, 16)

    solution, _ = solved(tmp_path, TermLosses(term, 16), Scripted(script), Space(8, 3), racing)
    assert solution.asked == 6
    (decided,) = solution.margins["decisions"]
    assert (decided["of"], decided["chosen"], decided["next"]["dropped"]) == (6, [1], [0])
    assert [loss == math.inf for loss in received] == [False] * 6 + [True] * 2
    assert np.argmin(received) == 1
    assert decided["skipped"] == 2
    assert (solution.paid < 6) == (racing.delta is not None)


# Searches that are stopped after `max_evaluations` masks.


def test_the_best_mask_is_completed_by_the_cheapest_blocks() -> None:
    singles = {Mask(8, (i,)): loss for i, loss in enumerate((5.0, 1.0, 4.0, 2.0))}
    assert driver.completed(LIMITED, singles).dropped == (1, 2, 3)
    assert driver.completed(LIMITED, {}).dropped == (0, 1, 2)
    larger = singles | {Mask(8, (0, 2)): 9.0}
    assert driver.completed(LIMITED, larger).dropped == (0, 1, 2), "the largest mask, and the cheapest block"
    ruled_out = {Mask(8, (0, 1, 2)): math.inf, Mask(8, (1, 2, 3)): 4.0}
    assert driver.completed(LIMITED, ruled_out).dropped == (1, 2, 3)


def test_on_a_budget_the_largest_mask_costs_most_and_is_filled_by_rise_per_cost() -> None:
    small, space = (sublayer_space(4, ratio, None, (1, 3) * 4) for ratio in (0.25, 0.5))
    dense, mask = {space.dense: 1.0}, space.drop
    singles = {mask(u): 1 + rise for u, rise in enumerate((0.9, 0.6, 0.3, 0.3, 0.8, 0.9, 0.1, 0.9))}
    assert driver.completed(small, dense | singles).names() == ("m1", "a3")
    by_loss = driver.completed(small, singles).names()
    assert by_loss == ("a0", "a1", "a2", "a3"), "by loss, without the dense loss"
    larger = dense | singles | {mask(1, 7): 9.0, mask(0, 2, 4): 1.1}
    assert driver.completed(space, larger).names() == ("m0", "a1", "b3"), "6 units of cost are more than 3"
    done = larger | {mask(0, 1, 2, 7): 8.0, mask(0, 1, 2, 5): 7.0}
    assert driver.completed(space, done) == mask(0, 1, 2, 5), "the least loss of those that meet the budget"


def test_a_limit_is_at_least_1() -> None:
    for limit in (0, -3):
        with pytest.raises(InputError, match=f"^max_evaluations={limit} "):
            driver.check_limit(limit)
