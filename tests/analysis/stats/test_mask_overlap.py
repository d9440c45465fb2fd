"""Overlap of masks: against enumeration, pair by pair, and in cases whose answer is known."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pandas as pd
import pytest

from analysis.stats import mask_overlap
from analysis.stats.grid import CELL, COMPARISONS, masks, n_open
from analysis.stats.mask_overlap import MaskSet, Pairs, compared, overlap
from pruning.core.mask import Mask
from tests.helpers.analysis_grid import frame, with_masks


@cache
def jaccard(n: int, a: int, b: int) -> tuple[float, ...]:
    """The overlaps of a mask of a blocks with all masks of b among n blocks."""
    first = Mask(n, tuple(range(a)))
    return tuple(first.jaccard(Mask(n, c)) for c in itertools.combinations(range(n), b))


def of_pair(first: tuple[int, ...], second: tuple[int, ...], n: int) -> float:
    """The corrected overlap of two masks with n open blocks."""
    numbers = (len({*first} & {*second}), len(first), len(second), n)
    return float(Pairs(*(np.array([one]) for one in numbers)).corrected[0])


def test_corrected_overlap_is_zero_by_chance_and_one_at_most() -> None:
    for n, a, b in ((6, 2, 3), (7, 3, 3), (5, 4, 3)):
        every = list(itertools.combinations(range(n), b))
        assert mask_overlap.expected(n, a, b) == pytest.approx(np.mean(jaccard(n, a, b)))
        found = [of_pair(tuple(range(a)), other, n) for other in every]
        assert np.mean(found) == pytest.approx(0.0, abs=1e-12)
        numbers = Pairs(*(np.array([one]) for one in (0, a, b, n)))
        assert numbers.lowest[0] == pytest.approx(min(found))
    assert of_pair((1, 2, 3), (1, 2, 3), 7) == 1.0
    # A mask that contains another one has the maximal overlap for their sizes.
    assert of_pair((1, 2, 3), (1, 2, 3, 4, 5, 6), 30) == pytest.approx(1.0)
    # Protected blocks raise what chance explains.
    assert of_pair((3, 4, 5), (4, 5, 6), 5) < of_pair((3, 4, 5), (4, 5, 6), 10)
    assert np.isnan(of_pair((1, 2, 3), (1, 2, 3), 3))
    empty = MaskSet.of(frame(objectives=1, data=1, draws=1, algos=2).assign(dropped=[(), ()]))
    assert empty.pairs(np.array([0]), np.array([1])).jaccard.tolist() == [Mask(30).jaccard(Mask(30))]


def counted(cells: pd.DataFrame, comparison: str) -> int:
    return len(compared(cells, comparison)[0])


def test_pairs_differ_in_one_thing_only() -> None:
    cells = frame(objectives=2, data=2, draws=3, algos=4, ks=(3, 6))
    assert {name: counted(cells, name) for name in COMPARISONS} == {
        "algorithms": 24 * 6,  # 2 k x 2 objectives x 2 data x 3 draws
        "draws": 32 * 3,
        "calibration data": 2 * 2 * 4 * 9,  # each of 3 draws of one data with each of the other
        "objectives": 48,  # on the same samples: 2 k x 2 data x 3 draws x 4 algorithms
        "ratios": 48,
        "seeds": 0,
    }
    two = pd.concat([cells, cells.assign(seed=9)], ignore_index=True)
    assert counted(two, "seeds") == len(cells)
    items = cells.assign(calibration=cells["calibration"].where(cells["objective"] == "o0", "items"))
    assert counted(items, "objectives") == 0, "data share only the numbers of their draws"
    one = frame(objectives=1, data=1, draws=1, algos=3).assign(protect_first=[0, 0, 1])
    assert counted(one, "algorithms") == 1, "other protected blocks are another null model"


def random_study(seed: int) -> pd.DataFrame:
    """Cells of several sizes, two models, protected blocks, and some cells missing."""
    rng = np.random.default_rng(seed)
    cells = frame(objectives=2, data=2, draws=4, algos=3, models=("a", "b"), ks=(1, 4, 30))
    cells = pd.concat([cells, cells])[rng.random(2 * len(cells)) > 0.4].reset_index(drop=True)
    cells = cells.assign(n_blocks=np.where(cells["model"] == "b", 130, 30))
    cells = cells.assign(protect_first=rng.integers(0, 2, len(cells)))
    dropped = [
        tuple(sorted(map(int, rng.choice(n, min(k, n), replace=False))))
        for n, k in zip(cells["n_blocks"], cells["k"], strict=True)
    ]
    return cells.assign(dropped=dropped, seed=rng.integers(0, 2, len(cells)))


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_pairs_at_once_equal_pair_by_pair(comparison: str) -> None:
    cells, varied = random_study(0), COMPARISONS[comparison]
    fixed = [c for c in (*CELL, "protect_first", "protect_last") if c not in varied]
    every, free, plain = masks(cells), n_open(cells), {}
    for group in cells.groupby(fixed, dropna=False).indices.values():
        for i, j in itertools.combinations(sorted(group.tolist()), 2):
            if cells[varied[0]][i] != cells[varied[0]][j]:
                numbers = every[i].jaccard(every[j]), of_pair(every[i].dropped, every[j].dropped, free[i])
                plain[i, j] = numbers
    i, j = compared(cells, comparison)
    found = MaskSet.of(cells).pairs(i, j)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == list(plain)
    np.testing.assert_array_equal(np.column_stack([found.jaccard, found.corrected]), [*plain.values()])
    known = [one for _, one in plain.values() if not np.isnan(one)]
    assert overlap(cells, comparison).mean == pytest.approx(np.mean(known))


def test_an_interval_ends_at_the_largest_and_smallest_overlaps_that_there_can_be() -> None:
    """Without the ends, leaving out one of four draws would give 1 and more, or less than the lowest overlap."""
    cells = frame(objectives=1, data=1, draws=4, algos=2).assign(n_blocks=10)
    same, near, far = (1, 2, 3), (1, 2, 4), (5, 6, 7)
    alike = overlap(cells.assign(dropped=[same, same, same, same, same, same, same, near]), "algorithms")
    assert alike.mean + (alike.mean - alike.low) > alike.high == 1.0
    apart = overlap(cells.assign(dropped=[same, far, same, far, same, far, same, near]), "algorithms")
    assert apart.low == pytest.approx(of_pair(same, far, 10))
    assert apart.mean - (apart.high - apart.mean) < apart.low
    drawn = overlap(cells.assign(dropped=[same, far] * 4), "draws")
    assert drawn.mean == 1.0
    assert np.isnan([drawn.low, drawn.high]).all(), "between draws, intervals cover too rarely"


def test_draws_that_contain_each_other_give_no_interval() -> None:
    one = frame(objectives=1, data=1, draws=6, algos=2)
    both = pd.concat([one.assign(samples=size) for size in (8, 32)], ignore_index=True)
    for cells, interval in ((both, False), (one, True)):
        masked = with_masks(cells, np.random.default_rng(0).random((len(cells), 30)))
        assert np.isnan(overlap(masked, "algorithms").low) != interval
