"""Overlap of masks: against enumeration, pair by pair, and in cases whose answer is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from analysis.figures import fig4_overlap
from analysis.stats import components, mask_overlap
from analysis.stats.components import shares
from analysis.stats.grid import CELL, COMPARISONS, several_sizes
from analysis.stats.mask_overlap import difference
from analysis.stats.means import CellDraws, over_draws
from analysis.stats.outcome_errors import differences
from analysis.stats.variance import plain
from pruning.core.mask import Mask
from tests.helpers.analysis_grid import frame, with_masks


def test_expected_overlap_by_enumeration() -> None:
    for n, a, b in ((6, 2, 3), (7, 3, 3), (5, 4, 3)):
        first = Mask(n, tuple(range(a)))
        every = [first.jaccard(Mask(n, c)) for c in itertools.combinations(range(n), b)]
        assert mask_overlap.expected(n, a, b) == pytest.approx(np.mean(every))


def test_p_value_by_enumeration() -> None:
    first, second = Mask(8, (0, 1, 2)), Mask(8, (1, 2, 5))
    shared = [len({0, 1, 2} & set(c)) for c in itertools.combinations(range(8), 3)]
    assert mask_overlap.p_value(first, second, 8) == pytest.approx(np.mean([s >= 2 for s in shared]))


def test_corrected_overlap_is_zero_by_chance_and_one_at_most() -> None:
    every = [Mask(7, c) for c in itertools.combinations(range(7), 3)]
    assert np.mean([mask_overlap.corrected(every[0], mask, 7) for mask in every]) == pytest.approx(
        0.0, abs=1e-12
    )
    assert mask_overlap.corrected(every[0], every[0], 7) == 1.0
    # A mask that contains another one has the maximal overlap for their sizes.
    assert mask_overlap.corrected(Mask(30, (1, 2, 3)), Mask(30, (1, 2, 3, 4, 5, 6)), 30) == pytest.approx(1.0)
    first, second = Mask(10, (3, 4, 5)), Mask(10, (4, 5, 6))  # protected blocks raise what chance explains
    assert mask_overlap.corrected(first, second, 5) < mask_overlap.corrected(first, second, 10)
    assert np.isnan(mask_overlap.corrected(Mask(5, (1, 2, 3)), Mask(5, (1, 2, 3)), 3))
    empty = mask_overlap.MaskSet.of(frame(objectives=1, data=1, draws=1, algos=2).assign(dropped=[(), ()]))
    assert empty.pairs(np.array([0]), np.array([1])).jaccard.tolist() == [Mask(30).jaccard(Mask(30))]


def test_masks_of_a_group_are_compared_with_random_masks_of_their_own_sizes() -> None:
    first, second = Mask(6, (0, 1), "sublayer"), Mask(6, (0, 1, 2), "sublayer")
    shared = [len({0, 1} & set(c)) for c in itertools.combinations(range(12), 3)]
    assert mask_overlap.group_p([first, second], 12, draws=20_000) == pytest.approx(
        np.mean([s >= 2 for s in shared]), abs=0.006
    )


def test_pairs_differ_in_one_thing_only() -> None:
    cells = frame(objectives=2, data=2, draws=3, algos=4, ks=(3, 6))
    cells = with_masks(cells, np.random.default_rng(0).random((len(cells), 30)))
    counts = {name: len(mask_overlap.pairs(cells, name)) for name in mask_overlap.COMPARISONS}
    assert counts == {
        "algorithms": 24 * 6,  # 2 k x 2 objectives x 2 data x 3 draws
        "draws": 32 * 3,
        "calibration data": 2 * 2 * 4 * 9,  # each of 3 draws of one data with each of the other
        "objectives": 48,  # on the same samples: 2 k x 2 data x 3 draws x 4 algorithms
        "ratios": 48,
        "seeds": 0,
    }
    two = pd.concat([cells, cells.assign(seed=9)], ignore_index=True)
    assert len(mask_overlap.pairs(two, "seeds")) == len(cells)


def test_objectives_are_compared_on_the_same_samples_and_others_are_named() -> None:
    cells = frame(objectives=3, data=2, draws=3, algos=2)
    cells = with_masks(cells, np.random.default_rng(0).random((len(cells), 30)))
    items = cells["objective"] == "o2"  # reads other data, with draws of the same numbers
    cells = cells.assign(calibration=cells["calibration"].where(~items, "items_" + cells["calibration"]))
    pairs = mask_overlap.pairs(cells, "objectives")
    assert {*pairs["a"], *pairs["b"]} == {"o0", "o1"}
    assert len(pairs) == 2 * 3 * 2
    assert mask_overlap.apart(cells) == "without o2, which has no samples in common with another objective"
    assert "without o2" in mask_overlap.note(cells)
    assert set(mask_overlap.on_common_samples(cells)["objective"]) == {"o0", "o1"}
    fewer = cells[(cells["objective"] != "o1") | (cells["calibration"] == "text0")]
    assert set(mask_overlap.on_common_samples(fewer)["calibration"]) == {"text0"}
    assert mask_overlap.apart(cells[items]) == "", "one objective alone lacks nothing"


def test_pairs_with_other_protected_blocks_are_left_out() -> None:
    cells = frame(objectives=1, data=1, draws=1, algos=3)
    cells = with_masks(cells, np.random.default_rng(0).random((3, 30))).assign(protect_first=[0, 0, 1])
    assert len(mask_overlap.pairs(cells, "algorithms")) == 1
    heats = fig4_overlap.heat(cells)
    assert heats["pairs"].sum() == 1, "the same holds in the heat map"


def test_an_interval_ends_at_the_largest_and_smallest_overlaps_that_there_can_be() -> None:
    found = mask_overlap.mean(of_four_draws([1.0, 1.0, 0.7, 1.0, 1.0, 1.0]))
    assert found.mean + (found.mean - found.low) > found.high == 1.0
    found = mask_overlap.mean(of_four_draws([-0.2, -0.2, 0.3, -0.2, -0.2, -0.2]))
    assert found.low == pytest.approx(-0.2)
    assert found.mean - (found.high - found.mean) < found.low


def of_four_draws(overlaps: list[float]) -> pd.DataFrame:
    """The pairs of four draws, whose overlaps cannot be below -0.2."""
    pairs = pd.DataFrame({"corrected": overlaps, "lowest": -0.2})
    for end, draws in (("a", [0, 0, 0, 1, 1, 2]), ("b", [1, 2, 3, 2, 3, 3])):
        pairs = pairs.assign(**{f"draw_{end}": draws, f"data_{end}": 0, f"source_{end}": 0})
    return pairs


def test_the_lowest_overlap_is_that_of_the_masks_that_share_least() -> None:
    cells = frame(objectives=1, data=1, draws=1, algos=2).assign(n_blocks=7, n_units=7)
    for a, b in ((2, 3), (4, 5), (7, 3)):
        first, second = tuple(range(a)), [tuple(c) for c in itertools.combinations(range(7), b)]
        both = [cells.assign(dropped=[first, other], k=a) for other in second]
        found = [mask_overlap.pairs(pair, "algorithms").iloc[0] for pair in both]
        lowest = min(row["corrected"] for row in found)
        np.testing.assert_allclose([row["lowest"] for row in found], lowest)


def test_groups_are_tested_as_a_whole_and_controlled_together() -> None:
    cells = frame(objectives=2, data=1, draws=2, algos=3)
    importance = np.random.default_rng(0).random((len(cells), 30))
    importance[cells["objective"] == "o0"] = np.arange(30)
    table = mask_overlap.groups_of(with_masks(cells, importance))
    assert len(table) == 4 + 6  # by algorithm: 2 objectives x 2 draws; by draw: 2 objectives x 3 algorithms
    assert (table.loc[table["objective"] == "o0", "q"] < 0.05).all()
    assert (table.loc[table["objective"] == "o1", "q"] > 0.05).all()
    assert mask_overlap.groups_of(cells.head(1).assign(dropped=[(1, 2, 3)])).empty


def test_seeds_on_the_same_samples_make_groups_of_their_own() -> None:
    cells = with_masks(
        frame(objectives=1, data=1, draws=3, algos=3), np.random.default_rng(0).random((9, 30))
    )
    both = pd.concat([cells.assign(seed=0), cells.assign(seed=1)], ignore_index=True)
    once, twice = mask_overlap.groups_of(cells.assign(seed=0)), mask_overlap.groups_of(both)
    assert (twice["masks"] == 3).all()
    assert sorted(twice["p"]) == sorted([*once["p"], *once["p"]]), "equal masks of two seeds prove nothing"
    nested = mask_overlap.groups_of(cells.assign(seed=cells["draw"]))
    pd.testing.assert_frame_equal(nested, once)


# -- many pairs at once, against one pair after another --------------------------------------------------------


def random_study(seed: int) -> pd.DataFrame:
    """Cells of several sizes, models wider than a word, protected blocks, and some cells missing."""
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


def plain_pairs(cells: pd.DataFrame, comparison: str) -> pd.DataFrame:
    """`overlap_pairs.pairs`, pair by pair."""
    varied = COMPARISONS[comparison]
    fixed = [c for c in (*CELL, "protect_first", "protect_last") if c not in varied]
    every, free = mask_overlap.masks(cells), mask_overlap.n_open(cells)
    rows = []
    for group in cells.groupby(fixed, dropna=False).indices.values():
        for i, j in itertools.combinations(sorted(group), 2):
            a, b = cells.iloc[i], cells.iloc[j]
            if a[varied[0]] != b[varied[0]]:
                where = [a[c] if a[c] == b[c] else "" for c in ("model", "k", "objective", "algo")]
                numbers = [
                    f(every[i], every[j], free[i]) for f in (mask_overlap.corrected, mask_overlap.p_value)
                ]
                rows.append([*where, a[varied[0]], b[varied[0]], every[i].jaccard(every[j]), *numbers])
    columns = ["model", "k", "objective", "algo", "a", "b", "jaccard", "corrected", "p"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize("comparison", COMPARISONS)
@pytest.mark.parametrize("seed", range(3))
def test_pairs_at_once_equal_pair_by_pair(comparison: str, seed: int) -> None:
    cells = random_study(seed)
    at_once, plain = mask_overlap.pairs(cells, comparison), plain_pairs(cells, comparison)
    at_once = at_once[list(plain)]
    assert len(plain)
    pd.testing.assert_frame_equal(at_once, plain, check_exact=True, check_dtype=False)


@pytest.mark.parametrize("seed", range(4))
def test_a_group_at_once_equals_pair_by_pair(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k, m, draws = 20 + 60 * (seed % 2), 4, 5, 300
    masks = [Mask(n, tuple(map(int, rng.choice(n, k, replace=False)))) for _ in range(m)]
    random = np.random.default_rng(seed).random((draws, m, n)).argsort(-1) < k
    null = [
        np.mean([(a & b).sum() / (a | b).sum() for a, b in itertools.combinations(sets, 2)])
        for sets in random
    ]
    observed = np.mean([a.jaccard(b) for a, b in itertools.combinations(masks, 2)])
    plain = (1 + sum(mean >= observed - 1e-12 for mean in null)) / (draws + 1)
    assert mask_overlap.group_p(masks, n, draws, seed) == plain
    by_pair = [mask_overlap.corrected(a, b, n) for a, b in itertools.combinations(masks, 2)]
    assert mask_overlap.mean_corrected(masks, n) == np.mean(by_pair)


def test_random_groups_do_not_depend_on_the_size_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = [Mask(20, (1, 2, 3, 4, n)) for n in (9, 12, 15)]
    at_once = mask_overlap.group_p(masks, 20, draws=101, seed=5)
    mask_overlap._null.cache_clear()
    monkeypatch.setattr(mask_overlap, "CHUNK", 7 * 3 * 20)
    assert mask_overlap.group_p(masks, 20, draws=101, seed=5) == at_once


# -- large groups ----------------------------------------------------------------------------------------------


def test_a_group_up_to_the_limit_has_all_pairs_and_a_larger_one_equally_many_for_each_member() -> None:
    for m in (1, 2, mask_overlap.FULL):
        assert list(zip(*mask_overlap.positions(m), strict=True)) == list(itertools.combinations(range(m), 2))
    for m in (mask_overlap.FULL + 1, 500):
        first, second = mask_overlap.positions(m)
        assert (first < second).all()
        assert len({*zip(first.tolist(), second.tolist(), strict=True)}) == m * mask_overlap.PARTNERS // 2
        assert (np.bincount(np.concatenate([first, second])) == mask_overlap.PARTNERS).all()


def test_a_sample_of_pairs_has_the_mean_of_all_pairs_and_is_announced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells = frame(objectives=1, data=1, draws=400, algos=1)
    importance = np.arange(30) + np.random.default_rng(0).normal(0, 9, (len(cells), 30))
    cells = with_masks(cells, importance)
    sampled = mask_overlap.pairs(cells, "draws")["corrected"]
    assert mask_overlap.note(cells) == mask_overlap.SAMPLED
    assert len(sampled) == 400 * mask_overlap.PARTNERS // 2
    monkeypatch.setattr(mask_overlap, "FULL", 400)
    mask_overlap.positions.cache_clear()
    every = mask_overlap.pairs(cells, "draws")["corrected"]
    mask_overlap.positions.cache_clear()
    assert mask_overlap.note(cells) == ""
    assert len(every) == 400 * 399 // 2
    assert sampled.mean() == pytest.approx(every.mean(), abs=0.01)


# -- draws of several sizes from the same data contain each other ------------------------------------------------


def of_sizes(*sizes: int, draws: int = 6) -> pd.DataFrame:
    """Two objectives that find the same mask on the same samples; every size of samples gives other masks."""
    one = frame(objectives=2, data=1, draws=draws, algos=2)
    whole = pd.concat([one.assign(samples=size) for size in sizes], ignore_index=True).assign(budget=None)
    importance = np.random.default_rng(0).random((len(sizes) * draws, 30))
    return with_masks(whole, importance[whole.groupby(["samples", "draw"]).ngroup().to_numpy()])


def test_objectives_are_compared_on_the_same_samples_only() -> None:
    pairs = mask_overlap.pairs(of_sizes(8, 32, 128, draws=3), "objectives")
    assert len(pairs) == 3 * 3 * 2
    assert (pairs["corrected"] == 1.0).all()
    both = of_sizes(8, 32)
    both.loc[both["objective"] == "o1", "calibration"] = "items"
    assert mask_overlap.pairs(both, "objectives").empty, "data sets share only the numbers of their draws"
    assert difference(both, "objectives", "draws") is None


def test_only_draws_of_one_size_give_an_interval() -> None:
    several, one = of_sizes(8, 32), of_sizes(8)
    assert (several_sizes(several), several_sizes(one)) == (True, False)
    assert "--only samples=N" in components.refusal(several)
    assert components.refusal(one) == ""
    values = np.random.default_rng(1).normal(size=len(several))
    found = shares(several, plain(several, None))
    assert "several sizes contain each other" in found.note
    assert math.isnan(found.total_ratio.low)
    for given, interval in ((several, False), (one, True)):
        of_cells = values[: len(given)]
        apart = difference(given, "objectives", "draws")
        assert apart is not None
        worse = differences(given, {"ppl": pd.Series(of_cells)}).query("worse != 0")["errors"]
        assert len(worse) == 1
        mean = mask_overlap.mean(mask_overlap.pairs(given, "draws"))
        ends = [over_draws(of_cells, CellDraws.of(given)).low, apart.low, mean.low, worse.iloc[0]]
        assert [math.isnan(end) for end in ends] == [not interval] * 4


def by_draw_and_search(by_draw: float, by_algo: float, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    cells = frame(objectives=1, draws=3, algos=4)
    setting = cells.groupby(["calibration", "draw"]).ngroup()
    base = rng.normal(size=30)
    own = rng.normal(0, by_draw, (setting.max() + 1, 30))[setting]
    return with_masks(cells, base + own + rng.normal(0, by_algo, (len(cells), 30)))


def test_overlaps_of_draws_and_searches_are_told_apart_only_if_they_differ() -> None:
    clear = difference(by_draw_and_search(2.0, 0.1, 0), "algorithms", "draws")
    assert clear is not None
    assert clear.low > 0
    assert clear.draws == 6
    doubtful = [difference(by_draw_and_search(0.0, 1.0, seed), "algorithms", "draws") for seed in range(40)]
    assert np.mean([d is not None and d.low <= 0 <= d.high for d in doubtful]) >= 0.9
    one = by_draw_and_search(1.0, 1.0, 0).query("algo == 'algo0'")
    assert difference(one, "algorithms", "draws") is None
