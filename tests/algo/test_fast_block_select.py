from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from pruning.algo.fast_block_select import FastBlockSelect, Run, disjoint, runs
from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space
from tests.algo.test_contract import drive, pairwise


def test_runs_are_maximal_and_longest_first() -> None:
    assert runs((0, 3, 4, 5, 8, 9)) == [(3, 4, 5), (8, 9), (0,)]
    assert runs((2,)) == [(2,)]


def test_a_run_that_is_expensive_as_a_group_is_replaced() -> None:
    single = (0.9, 0.1, 0.2, 0.9, 0.3, 0.4, 0.9, 0.9)

    def loss(mask: Mask) -> float:
        return sum(single[i] for i in mask.dropped) + 2.0 * ({1, 2} <= {*mask.dropped})

    run = drive(FastBlockSelect(), Space(8, 2), loss)
    assert run.answer.dropped == (4, 5), "1 and 2 are cheapest alone and expensive together"
    assert run.why == "the set no longer changed"
    assert len(run.batches) == 2, "after the first replacement, every group is known"


def test_only_single_blocks_and_runs_are_measured() -> None:
    for seed in range(8):
        run = drive(FastBlockSelect(), Space(12, 5), pairwise(12, seed, 3.0))
        assert all(len(runs(mask.dropped)) == 1 for mask in run.asked)


def test_only_the_best_candidates_of_each_length_are_measured() -> None:
    single = (0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    def loss(mask: Mask) -> float:
        return sum(single[i] for i in mask.dropped)

    asked = drive(FastBlockSelect(candidates=3), Space(8, 2), loss).batches[1]
    assert [mask.dropped for mask in asked] == [(0, 1), (1, 2), (2, 3)]


def test_without_interactions_it_is_one_shot_and_with_them_the_search_ends() -> None:
    whys = {drive(FastBlockSelect(), Space(14, 6), pairwise(14, seed, 4.0)).why for seed in range(40)}
    assert whys <= {"the set no longer changed", "the search came back to an earlier set"}
    assert "the set no longer changed" in whys


@pytest.mark.parametrize("seed", range(10))
def test_the_choice_of_groups_is_the_best_without_conflict(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = [3, 2, 2, 1, 1]
    pools = {n: [tuple(range(s, s + n)) for s in rng.permutation(12 - n)[:6].tolist()] for n in {*lengths}}
    pools[3].append((20, 21, 22))  # so that at least one choice has no conflict
    pools[2] += [(23, 24), (25, 26)]
    losses: dict[Run, float] = {
        group: float(rng.standard_normal()) for pool in pools.values() for group in pool
    }
    chosen = disjoint(lengths, pools, losses)

    def free(groups: tuple[Run, ...]) -> bool:
        return all(not {*a} & {*b} for a, b in combinations(groups, 2))

    choices = product(pools[3], combinations(pools[2], 2), combinations(pools[1], 2))
    least = min(sum(losses[g] for g in c) for a, b, d in choices if free(c := (a, *b, *d)))
    assert free(tuple(chosen))
    assert sorted(map(len, chosen), reverse=True) == lengths
    assert sum(losses[g] for g in chosen) == pytest.approx(least)


def test_0_candidates_are_refused() -> None:
    with pytest.raises(InputError, match=r"algo.candidates=0 is too few"):
        FastBlockSelect(candidates=0)
