from __future__ import annotations

import pytest

from pruning.algo.beam import Beam
from pruning.algo.greedy import Greedy
from pruning.core.errors import InputError
from pruning.core.mask import Space
from tests.algo.test_contract import drive, optimum, pairwise

SPACE = Space(9, 4)


@pytest.mark.parametrize("seed", range(8))
def test_width_one_is_greedy(seed: int) -> None:
    loss = pairwise(9, seed, strength=3.0)
    assert drive(Beam(1), SPACE, loss) == drive(Greedy(), SPACE, loss)


@pytest.mark.parametrize("seed", range(8))
def test_unlimited_width_is_exhaustive(seed: int) -> None:
    loss = pairwise(9, seed, strength=3.0)
    assert drive(Beam(10_000), SPACE, loss).answer == optimum(SPACE, loss)


def test_some_losses_need_the_width() -> None:
    found = [
        drive(Beam(width), SPACE, pairwise(9, seed, 3.0)).answer for seed in range(20) for width in (1, 5)
    ]
    loss = [pairwise(9, seed, 3.0) for seed in range(20)]
    better = [loss[i](found[2 * i + 1]) < loss[i](found[2 * i]) for i in range(20)]
    worse = [loss[i](found[2 * i + 1]) > loss[i](found[2 * i]) for i in range(20)]
    assert sum(better) > sum(worse)


def test_a_width_of_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"algo.width=0 keeps no set"):
        Beam(0)
