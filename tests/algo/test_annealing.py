from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from pruning.algo.annealing import Annealing, accepts
from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space
from tests.algo.test_contract import drive, optimum, pairwise

SPACE = Space(12, 4)


def test_the_optimum_of_most_small_pairwise_losses_is_found() -> None:
    losses = [pairwise(12, seed, 2.0) for seed in range(20)]
    answers = [drive(Annealing(), SPACE, loss, seed).answer for seed, loss in enumerate(losses)]
    assert sum(mask == optimum(SPACE, loss) for mask, loss in zip(answers, losses, strict=True)) >= 14


def test_chains_share_their_batches() -> None:
    run = drive(Annealing(chains=5, steps=7), SPACE, pairwise(12, 0))
    assert len(run.batches) <= 1 + 1 + 7
    assert [len(batch) for batch in run.batches[:2]] == [12, 5]
    assert all(len(batch) <= 5 for batch in run.batches[1:])
    assert run.why == "each chain took 7 steps"


def test_a_step_swaps_one_block_of_the_current_set() -> None:
    loss = pairwise(12, 0, 2.0)
    at = (run := drive(Annealing(chains=1, steps=60, heat=1e-9), SPACE, loss)).batches[1][0]
    for (move,) in run.batches[2:]:  # so cold that only better sets are accepted
        assert len({*move.dropped} - {*at.dropped}) == 1
        at = min(at, move, key=loss)
    assert run.answer == at


def test_worse_sets_are_accepted_less_often_as_it_cools() -> None:
    assert accepts(-1.0, 0.1) == accepts(0.0, 0.1) == 1.0
    assert accepts(0.2, 0.1) == pytest.approx(math.exp(-2))
    assert accepts(0.2, 0.01) < accepts(0.2, 0.1)
    assert (accepts(0.2, 0.0), accepts(0.0, 0.0)) == (0.0, 1.0), (
        "a power of the cooling becomes 0 after many steps"
    )


def test_a_small_space_is_exhausted_and_the_reason_is_reported() -> None:
    assert (
        drive(Annealing(steps=10_000), Space(6, 2), pairwise(6, 0)).why
        == "every mask of the space was scored"
    )


def test_equal_losses_are_handled() -> None:
    def loss(mask: Mask) -> float:
        return 3.0

    assert drive(Annealing(), SPACE, loss).answer.dropped == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chains": 0}, "algo.chains=0 is too few"),
        ({"steps": -1}, "algo.steps=-1 is too few"),
        ({"heat": 0.0}, "algo.heat=0 is too small: choose a number above 0"),
        ({"cooling": 1.1}, "algo.cooling=1.1 is out of range"),
        ({"temperature": -1.0}, "algo.temperature=-1 is too small"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(Annealing(), **settings)
