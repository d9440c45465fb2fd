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
    losses = [pairwise(9, seed, 3.0) for seed in range(20)]
    narrow, wide = ([loss(drive(Beam(width), SPACE, loss).answer) for loss in losses] for width in (1, 5))
    better = [b < a for a, b in zip(narrow, wide, strict=True)]
    worse = [b > a for a, b in zip(narrow, wide, strict=True)]
    assert sum(better) > sum(worse)


def test_a_width_of_0_is_refused() -> None:
    with pytest.raises(InputError, match=r"algo.width=0 is too small: choose at least 1"):
        Beam(0)
