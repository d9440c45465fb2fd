from __future__ import annotations

from collections import Counter

import pytest

from pruning.algo.random import Random
from pruning.core.errors import InputError
from pruning.core.mask import Space
from tests.algo.test_contract import drive, optimum, pairwise

SPACE = Space(12, 4)


def test_it_asks_for_distinct_masks_in_one_batch_and_takes_the_best() -> None:
    loss = pairwise(12, 0)
    run = drive(Random(trials=50), SPACE, loss)
    assert [len(batch) for batch in run.batches] == [50]
    assert len(set(run.asked)) == 50
    assert run.answer == min(run.asked, key=loss)
    assert run.why == "50 masks were drawn"


@pytest.mark.parametrize("trials", [495, 10_000])
def test_a_space_that_is_small_enough_is_scored_whole(trials: int) -> None:
    loss = pairwise(12, 1, 3.0)
    run = drive(Random(trials), SPACE, loss)
    assert len(run.asked) == SPACE.size
    assert run.answer == optimum(SPACE, loss)
    assert run.why == "every mask of the space was scored"


def test_all_blocks_are_equally_likely() -> None:
    drawn = Counter(
        i
        for seed in range(20)
        for m in drive(Random(60), SPACE, pairwise(12, 0), seed).asked
        for i in m.dropped
    )
    share = 20 * 60 * 4 / 12
    assert all(abs(count - share) < 0.2 * share for count in drawn.values())
    assert len(drawn) == 12


def test_0_trials_are_refused() -> None:
    with pytest.raises(InputError, match=r"algo.trials=0 is too few"):
        Random(trials=0)
