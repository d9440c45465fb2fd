from __future__ import annotations

import itertools

import numpy as np
import pytest

from analysis.stats import overlap
from pruning.core.mask import Mask
from tests.helpers.analysis_grid import frame, with_masks


def test_expected_overlap_by_enumeration() -> None:
    for n, a, b in ((6, 2, 3), (7, 3, 3), (5, 4, 3)):
        first = Mask(n, tuple(range(a)))
        every = [first.jaccard(Mask(n, c)) for c in itertools.combinations(range(n), b)]
        assert overlap.expected(n, a, b) == pytest.approx(np.mean(every))


def test_p_value_by_enumeration() -> None:
    first, second = Mask(8, (0, 1, 2)), Mask(8, (1, 2, 5))
    shared = [len({0, 1, 2} & set(c)) for c in itertools.combinations(range(8), 3)]
    assert overlap.p_value(first, second, 8) == pytest.approx(np.mean([s >= 2 for s in shared]))


def test_corrected_overlap_is_zero_by_chance_and_one_at_most() -> None:
    every = [Mask(7, c) for c in itertools.combinations(range(7), 3)]
    assert np.mean([overlap.corrected(every[0], mask, 7) for mask in every]) == pytest.approx(0.0, abs=1e-12)
    assert overlap.corrected(every[0], every[0], 7) == 1.0
    # A mask that contains another one has the maximal overlap for their sizes.
    assert overlap.corrected(Mask(30, (1, 2, 3)), Mask(30, (1, 2, 3, 4, 5, 6)), 30) == pytest.approx(1.0)


def test_protected_blocks_raise_what_chance_explains() -> None:
    first, second = Mask(10, (3, 4, 5)), Mask(10, (4, 5, 6))
    assert overlap.corrected(first, second, 5) < overlap.corrected(first, second, 10)
    assert np.isnan(overlap.corrected(Mask(5, (1, 2, 3)), Mask(5, (1, 2, 3)), 3))


def test_overlap_of_two_published_masks() -> None:
    # One-shot by perplexity on Llama-3-8B, first seven: FineWeb-Edu and BookCorpus share six.
    first, second = Mask(32, (10, 8, 9, 11, 26, 25, 12)), Mask(32, (8, 23, 9, 11, 10, 25, 26))
    assert first.jaccard(second) == 6 / 8
    assert overlap.p_value(first, second, 32) < 1e-4


def test_a_group_of_random_masks_is_not_significant() -> None:
    rng = np.random.default_rng(3)
    p_values = []
    for trial in range(40):
        masks = [Mask(20, tuple(map(int, rng.choice(20, 5, replace=False)))) for _ in range(4)]
        p_values.append(overlap.group_p(masks, 20, draws=400, seed=trial))
    assert 0.3 < np.mean(p_values) < 0.7
    alike = [Mask(20, (1, 2, 3, 4, n)) for n in (5, 6, 7)]
    assert overlap.group_p(alike, 20) < 0.01
    with pytest.raises(ValueError, match="same number"):
        overlap.group_p([Mask(20, (1,)), Mask(20, (1, 2))], 20)


def test_pairs_differ_in_one_thing_only() -> None:
    cells = frame(objectives=2, data=2, draws=3, algos=4, ks=(3, 6))
    cells = with_masks(cells, np.random.default_rng(0).random((len(cells), 30)))
    counts = {name: len(overlap.pairs(cells, name)) for name in overlap.COMPARISONS}
    assert counts == {
        "algorithms": 24 * 6,  # 2 k x 2 objectives x 2 data x 3 draws
        "draws": 32 * 3,
        "calibration data": 48,
        "objectives": 24 * 4,  # both data sets of one with both of the other
        "ratios": 48,
    }


def test_pairs_with_other_protected_blocks_are_left_out() -> None:
    cells = frame(objectives=1, data=1, draws=1, algos=3)
    cells = with_masks(cells, np.random.default_rng(0).random((3, 30))).assign(protect_first=[0, 0, 1])
    assert len(overlap.pairs(cells, "algorithms")) == 1


def test_overlaps_distinguish_objectives_from_chance() -> None:
    cells = frame(objectives=2, data=1, draws=2, algos=3)
    per_objective = {name: np.random.default_rng(i).random(30) for i, name in enumerate(("o0", "o1"))}
    cells = with_masks(cells, np.array([per_objective[o] for o in cells["objective"]]))
    assert overlap.pairs(cells, "algorithms")["corrected"].mean() == 1.0
    assert overlap.pairs(cells, "objectives")["corrected"].mean() < 0.5
    assert overlap.pairs(cells, "ratios").empty


def test_groups_are_tested_as_a_whole_and_controlled_together() -> None:
    cells = frame(objectives=2, data=1, draws=2, algos=3)
    importance = np.random.default_rng(0).random((len(cells), 30))
    importance[cells["objective"] == "o0"] = np.arange(30)
    table = overlap.groups_of(with_masks(cells, importance))
    assert len(table) == 4 + 6  # by algorithm: 2 objectives x 2 draws; by draw: 2 objectives x 3 algorithms
    assert (table.loc[table["objective"] == "o0", "q"] < 0.05).all()
    assert (table.loc[table["objective"] == "o1", "q"] > 0.05).all()
    assert overlap.groups_of(cells.head(1).assign(dropped=[(1, 2, 3)])).empty
