from __future__ import annotations

import pytest

from pruning.algo.greedy import Greedy
from pruning.algo.local_search import LocalSearch
from pruning.algo.one_shot import OneShot
from pruning.core.mask import Mask, Space
from tests.algo.test_contract import drive, pairwise

SPACE = Space(12, 5, frozenset({0}))


def swaps(mask: Mask) -> list[Mask]:
    return [
        SPACE.drop(*set(mask.dropped) - {back}, gone)
        for back in mask.dropped
        for gone in SPACE.free(mask.dropped)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_it_ends_when_no_swap_helps_and_not_before(seed: int) -> None:
    loss = pairwise(12, seed, 3.0)
    run = drive(LocalSearch(), SPACE, loss)
    assert all(loss(run.answer) <= loss(other) for other in swaps(run.answer))
    assert {*swaps(run.answer)} <= {*run.asked}, "all swaps were scored"
    assert run.why == "no swap lowers the loss"


@pytest.mark.parametrize("seed", range(12))
def test_it_is_never_worse_than_its_starts(seed: int) -> None:
    loss = pairwise(12, seed, 3.0)
    least = loss(drive(LocalSearch(), SPACE, loss).answer)
    assert least <= min(loss(drive(start, SPACE, loss).answer) for start in (OneShot(), Greedy()))


@pytest.mark.parametrize(("pair", "better"), [(-3.0, "one_shot"), (1.0, "greedy")])
def test_it_starts_from_greedy_or_one_shot_whichever_is_better(pair: float, better: str) -> None:
    single = (0.1, 0.2, 0.3, 0.5, 0.6, 0.9, 0.9)

    def loss(mask: Mask) -> float:
        gone = {*mask.dropped}
        together = ({0, 1} <= gone) + ({0, 2} <= gone) + pair * ({1, 2} <= gone)
        return sum(single[i] for i in gone) + together

    space = Space(7, 3)
    starts = {"one_shot": drive(OneShot(), space, loss).answer, "greedy": drive(Greedy(), space, loss).answer}
    assert min(starts, key=lambda name: loss(starts[name])) == better
    run = drive(LocalSearch(), space, loss)
    before = 7 + 6 + 5 + 1  # the rounds of greedy, and the one-shot set
    swap = {m for m in run.asked[before:] if len({*m.dropped} - {*starts[better].dropped}) == 1}
    rounds = {m for m in run.asked[13:before] if len({*m.dropped} - {*starts[better].dropped}) == 1}
    assert starts["one_shot"] == run.asked[before - 1]
    assert len(swap | rounds) == 3 * 4, "all swaps of the better start were scored"


def test_it_stays_at_its_start_if_all_losses_are_equal() -> None:
    def loss(mask: Mask) -> float:
        return 1.0

    assert drive(LocalSearch(), SPACE, loss).answer.dropped == (1, 2, 3, 4, 5)
