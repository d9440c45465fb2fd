"""A lazy search skips candidates that would not be chosen: fewer losses, and the same mask at the stated risk."""

from __future__ import annotations

import random

import pytest
from scipy import stats

from pruning.algo import Algo, Lazy
from pruning.algo.beam import Beam
from pruning.algo.greedy import Greedy
from pruning.core.mask import Mask, Space
from pruning.search.decide import least_error
from tests.helpers.searches import LossOf, drive
from tests.helpers.spaces import sublayer_space

SPACE = Space(24, 5)
PLAIN: list[tuple[Algo, Algo]] = [(Greedy(), Greedy(lazy=0.05)), (Beam(3), Beam(3, lazy=0.05))]


def noisy(seed: int, noise: float) -> LossOf:
    """Increments that are those of the first round, plus normal noise for each mask."""
    numbers = random.Random(seed)
    single = [numbers.random() for _ in range(SPACE.n_blocks)]

    def loss(mask: Mask) -> float:
        own = random.Random(f"{seed} {mask.dropped}").gauss(0.0, noise)
        return 3.0 + sum(single[i] for i in mask.dropped) + own

    return loss


@pytest.mark.parametrize(("plain", "lazy"), PLAIN, ids=["greedy", "beam"])
@pytest.mark.parametrize("seed", range(5))
def test_an_additive_loss_needs_the_first_round_and_little_more(plain: Algo, lazy: Algo, seed: int) -> None:
    loss = noisy(seed, 0.0)
    expected, actual = drive(plain, SPACE, loss), drive(lazy, SPACE, loss)
    assert actual.answer == expected.answer
    assert actual.batches[0] == expected.batches[0]
    assert len(actual.asked) < len(expected.asked) / 1.5
    assert len(set(actual.asked)) == len(actual.asked)


@pytest.mark.parametrize(("plain", "lazy"), PLAIN, ids=["greedy", "beam"])
def test_the_risk_bounds_the_share_of_searches_that_lose(plain: Algo, lazy: Algo) -> None:
    searches = [
        (drive(plain, SPACE, loss), drive(lazy, SPACE, loss)) for loss in (noisy(s, 0.05) for s in range(60))
    ]
    kept = sum(a.answer == b.answer for a, b in searches)
    assert kept >= 54, "at a risk of 0.05, 3 of 60 may lose; 6 would be very unlikely"
    asked = [sum(len(run.asked) for run in runs) for runs in zip(*searches, strict=True)]
    assert asked[1] < 0.8 * asked[0]


def test_the_bound_is_the_one_of_the_formula() -> None:
    errors = [0.1, 0.3, 0.2]
    squares = 0.5 + 0.02
    quantile = stats.t.isf(0.1 / 6, 9)
    expected = 0.2 - quantile * (squares / 9 * (1 + 1 / 3)) ** 0.5
    assert least_error(Lazy({}, 0.1, 0.5, 7), errors, 6) == pytest.approx(expected)
    assert least_error(Lazy({}, 0.1), [0.1], 6) == float("-inf")


def test_the_risk_of_a_search_is_shared_by_its_rounds_and_their_errors_are_pooled() -> None:
    """By hand, for two rounds after the first of greedy search over four units."""
    table = {(): 1.0, (0,): 1.1, (1,): 1.4, (2,): 1.6, (3,): 1.9}
    table |= {(0, 1): 1.6, (0, 2): 1.8, (0, 3): 2.2, (0, 1, 2): 2.5, (0, 1, 3): 2.8}
    run = drive(Greedy(lazy=0.1), Space(4, 3), lambda mask: table[mask.dropped])
    first, second, third = (request.lazy for request in run.requests)
    assert first is not None
    assert second is not None
    assert third is not None
    assert [one.risk for one in (first, second, third)] == [0.05] * 3
    assert (first.predicted, first.squares, first.freedom, second.squares, second.freedom) == ({}, 0, 0, 0, 0)
    # The dense loss is taken as 0, because only the order of the predictions and the spread of their errors count.
    errors = [loss - second.predicted[Mask(4, d)] for d, loss in table.items() if len(d) == 2]
    assert errors == pytest.approx([1.6 - 2.5, 1.8 - 2.7, 2.2 - 3.0])
    assert (third.squares, third.freedom) == (pytest.approx(2 / 3 * 0.1**2), 2)
    assert third.predicted == {
        Mask(4, (0, 1, 2)): pytest.approx(1.6 + 1.8 - 1.1),
        Mask(4, (0, 1, 3)): pytest.approx(1.6 + 2.2 - 1.1),
    }


BUDGET = sublayer_space(12, 0.2, None, (1, 3) * 12)


@pytest.mark.parametrize("rank", ["cost", "loss"])
@pytest.mark.parametrize("kind", [Greedy, Beam])
@pytest.mark.parametrize("seed", range(4))
def test_on_a_budget_a_lazy_search_saves_losses_and_keeps_the_mask(kind: type, seed: int, rank: str) -> None:
    loss = noisy(seed, 0.0)
    plain, lazy = (drive(kind(lazy=risk, rank=rank), BUDGET, loss) for risk in (None, 0.05))
    assert lazy.answer == plain.answer
    assert lazy.answer in BUDGET
    assert len(lazy.asked) < len(plain.asked)
    if rank == "loss":  # the path of whole blocks asks again for masks whose rise per cost was estimated
        assert len({*lazy.asked}) == len(lazy.asked)


def test_a_limit_counts_the_masks_that_are_scored_but_a_round_needs_room_for_all() -> None:
    algo, loss = Greedy(lazy=0.05), noisy(0, 0.0)
    run = drive(algo, SPACE, loss)
    room = len(run.asked) - len(run.batches[-1]) + SPACE.n_blocks - 4
    assert room < sum(range(20, 25)), "without lazy rounds, the limit would end the search"
    assert drive(algo, SPACE, loss, most=room) == run
    stopped = drive(algo, SPACE, loss, most=room - 1)
    assert stopped.why == f"max_evaluations={room - 1} was reached"
    assert stopped.answer == run.answer, "the most promising masks are scored first"
