"""Greedy on a budget over sub-layers: it also follows the path of whole blocks, and is never worse than that."""

from __future__ import annotations

import pytest

from pruning.algo._rank import evaluations_by_blocks, fitting_blocks, single_units, whole_blocks
from pruning.algo.greedy import Greedy
from pruning.algo.local_search import LocalSearch
from pruning.core.mask import Mask, Removal, Space
from tests.algo.test_contract import Loss, drive, pairwise
from tests.helpers.spaces import sublayer_space

N = 6
COSTS = (1.0, 3.0) * N
SPACE = sublayer_space(N, 1 / 3, None, COSTS)  # two blocks


def by_blocks(loss: Loss) -> Mask:
    """Greedy over blocks of equal cost, in terms of sub-layers."""
    whole = drive(Greedy(), Space(N, 2), lambda mask: loss(parts(mask)))
    return parts(whole.answer)


def parts(mask: Mask) -> Mask:
    return Mask(N, tuple(unit for block in mask.dropped for unit in (2 * block, 2 * block + 1)), "sublayer")


def paired(mask: Mask) -> float:
    """Each part costs much alone, and nothing if its other part goes too; m0 is cheap and leads away from that."""
    gone = set(mask.dropped)
    broken = sum((2 * block in gone) != (2 * block + 1 in gone) for block in range(N))
    return (
        1.0
        + 0.5 * broken
        + 0.01 * len(gone)
        - (0.45 if 1 in gone else 0.0)
        + (0.6 if {0, 1} <= gone else 0.0)
    )


@pytest.mark.parametrize(
    "algo", [Greedy(), Greedy(lazy=0.05), LocalSearch()], ids=["greedy", "lazy", "local_search"]
)
@pytest.mark.parametrize("seed", range(12))
def test_it_is_never_worse_than_greedy_over_blocks(algo: Greedy | LocalSearch, seed: int) -> None:
    loss = pairwise(2 * N, seed, strength=3.0)
    run = drive(algo, SPACE, loss)
    assert loss(run.answer) <= loss(by_blocks(loss))
    assert run.answer in SPACE
    assert len(run.scores) <= algo.evaluations(SPACE)


def test_without_the_path_of_blocks_greedy_passes_by_a_better_mask() -> None:
    alone, both = (drive(Greedy(blocks=blocks), SPACE, paired).answer for blocks in (False, True))
    assert paired(both) < paired(alone)
    assert both == by_blocks(paired)
    assert paired(both) == min(paired(mask) for mask in SPACE.masks())


def test_what_does_not_fit_as_a_block_is_filled_with_single_units() -> None:
    space = sublayer_space(N, 0.25, None, COSTS)  # a block and a half
    first = fitting_blocks(space, space.dense)
    assert [mask.names() for mask in first] == [(f"b{block}",) for block in range(N)]
    assert not fitting_blocks(space, first[0])
    assert whole_blocks(space, first[0]) == single_units(space, first[0])
    answer = drive(Greedy(), space, paired).answer
    assert answer in space


def test_protected_parts_and_other_units_have_no_path_of_blocks() -> None:
    ends = sublayer_space(N, 1 / 3, None, COSTS, first=1, last=1)
    assert [mask.names() for mask in fitting_blocks(ends, ends.dense)] == [
        (f"b{b}",) for b in range(1, N - 1)
    ]
    attention = sublayer_space(N, 0.2, None, COSTS, "a")
    blocks = Removal(1 / 3, None, budget="latency").space(N, (1.0,) * N)
    for space in (attention, blocks):
        assert fitting_blocks(space, space.dense) == []
        assert evaluations_by_blocks(space) == 0
