from __future__ import annotations

import pytest

from pruning.algo.contiguous import Contiguous
from pruning.core.mask import Space
from tests.algo.test_contract import drive, pairwise


@pytest.mark.parametrize("seed", range(5))
def test_the_answer_is_the_best_of_all_windows(seed: int) -> None:
    loss = pairwise(11, seed, 3.0)
    windows = [tuple(range(start, start + 4)) for start in range(8)]
    run = drive(Contiguous(), Space(11, 4), loss)
    assert [mask.dropped for mask in run.asked] == windows
    assert run.answer == min(run.asked, key=loss)


def test_windows_avoid_protected_ends() -> None:
    run = drive(Contiguous(), Space(9, 3, frozenset({0, 1, 8})), pairwise(9, 0))
    assert [mask.dropped for mask in run.asked] == [(2, 3, 4), (3, 4, 5), (4, 5, 6), (5, 6, 7)]


def test_neighbours_are_neighbours_among_the_unprotected() -> None:
    run = drive(Contiguous(), Space(6, 3, frozenset({3})), pairwise(6, 0))
    assert [mask.dropped for mask in run.asked] == [(0, 1, 2), (1, 2, 4), (2, 4, 5)]
