from __future__ import annotations

import pytest

from pruning.algo.exhaustive import Exhaustive
from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space
from pruning.search import driver
from tests.algo.test_contract import drive, optimum, pairwise


def test_every_mask_is_asked_for_in_lexicographic_order_and_small_batches() -> None:
    space = Space(10, 4)
    run = drive(Exhaustive(batch=50), space, pairwise(10, 0, 3.0))
    assert [len(batch) for batch in run.batches] == [50, 50, 50, 50, 10]
    assert len(set(run.asked)) == space.size
    assert [mask.dropped for mask in run.asked] == sorted(mask.dropped for mask in run.asked)


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_the_answer_is_the_optimum_whatever_the_batch(batch: int) -> None:
    for seed in range(5):
        loss = pairwise(9, seed, 3.0)
        assert drive(Exhaustive(batch=batch), Space(9, 4), loss).answer == optimum(Space(9, 4), loss)


def test_ties_go_to_the_first_mask() -> None:
    def loss(mask: Mask) -> float:
        return 0.0

    assert drive(Exhaustive(batch=3), Space(8, 3), loss).answer.dropped == (0, 1, 2)


def test_a_space_that_is_too_large_is_refused_with_its_count() -> None:
    message = r"would score 593,775 masks \(30 blocks, k = 6\), more than algo.limit=50000"
    with pytest.raises(InputError, match=message):
        Exhaustive().evaluations(Space(30, 6))
    with pytest.raises(InputError, match=message):
        driver.evaluations(Exhaustive(), Space(30, 6))
    with pytest.raises(InputError, match=message):
        drive(Exhaustive(), Space(30, 6), pairwise(30, 0))
    assert Exhaustive(limit=600_000).evaluations(Space(30, 6)) == 593_775
    assert Exhaustive().evaluations(Space(32, 6, frozenset(range(16)))) == 8008


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"limit": 0}, "algo.limit=0 is too small"), ({"batch": 0}, "algo.batch=0 is too small")],
)
def test_invalid_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Exhaustive(**settings)
