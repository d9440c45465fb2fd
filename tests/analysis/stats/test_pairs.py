"""Pairs of masks, of losses and of rankings, against scipy and pair by pair; means of objectives and their costs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats import crossed
from analysis.stats.agreement import spearman
from analysis.stats.grid import CELL, COMPARISONS, masks
from analysis.stats.mask_overlap import MaskSet, compared
from analysis.stats.same_samples import joined, paired
from pruning.core.records import item_hits
from tests.helpers.analysis_grid import frame

X = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0])
Y = np.array([2.0, 7.0, 1.0, 8.0, 2.0, 8.0, 1.0])


def test_the_statistic_equals_scipy() -> None:
    expected = stats.spearmanr(X, Y).statistic
    assert spearman(np.array([X, Y]), np.array([Y, Y])) == pytest.approx([expected, 1.0])


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(3.0, 1.0, 40)  # windows differ much more than masks
    first, second = hard + rng.normal(0.05, 0.02, 40), hard + rng.normal(0.0, 0.02, 40)
    found, expected = paired(first, second), stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx(float((first - second).mean()))
    assert found.low > 0, "the small difference is certain, although single losses vary by 1"
    assert found.windows == 40
    assert found.mean / found.error == pytest.approx(expected.statistic)
    one = paired(np.array([2.0]), np.array([1.5]))
    assert one.mean == pytest.approx(0.5)
    assert np.isnan([one.low, one.high]).all()


def test_windows_of_several_corpora_are_joined_unless_one_was_not_kept() -> None:
    both = joined([np.array([1.0, 2.0]), np.array([3.0])])
    assert both is not None
    assert both.tolist() == [1.0, 2.0, 3.0]
    assert joined([np.array([1.0]), None]) is None
    assert joined([]) is None


def test_hits_are_those_of_the_evaluation() -> None:
    terms: dict[str, Any] = {"loglikelihoods": [[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0]], "right": [0, 0, 0]}
    assert item_hits(terms) == pytest.approx([1.0, 0.0, 0.5])
    assert item_hits({"hits": [1.0, 0.0], "loglikelihoods": [[-1.0], [-2.0]]}) == pytest.approx([1.0, 0.0])
    assert item_hits({"losses": [2.0]}) is None


def counted(cells: pd.DataFrame, comparison: str) -> int:
    return len(compared(cells, comparison)[0])


def test_pairs_differ_in_one_thing_only() -> None:
    cells = frame(objectives=2, data=2, draws=3, algos=4, ks=(3, 6))
    assert {name: counted(cells, name) for name in COMPARISONS} == {
        "algorithms": 24 * 6,  # 2 k x 2 objectives x 2 data x 3 draws
        "draws": 32 * 3,
        "objectives": 48,  # on the same samples: 2 k x 2 data x 3 draws x 4 algorithms
    }
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
    fixed = [c for c in (*CELL, "protect_first", "protect_last") if c != varied]
    every, plain = masks(cells), {}
    for group in cells.groupby(fixed, dropna=False).indices.values():
        for i, j in itertools.combinations(sorted(group.tolist()), 2):
            if cells[varied][i] != cells[varied][j]:
                gone = [{*mask.dropped} for mask in (every[i], every[j])]
                plain[i, j] = every[i].jaccard(every[j]), len(gone[0] ^ gone[1]) / 2
    i, j = compared(cells, comparison)
    found = MaskSet.of(cells).pairs(i, j)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == list(plain)
    np.testing.assert_array_equal(np.column_stack([found.jaccard, found.changed]), [*plain.values()])


def test_perplexities_have_geometric_means_that_one_broken_model_does_not_decide() -> None:
    cells = frame(objectives=2, data=1, draws=2, algos=1)
    values = pd.Series(20.0, index=cells.index)
    values[cells["objective"] == "o1"] = [10.0, 1000.0]
    outcomes = {"ppl": values, "same": values, "acc": values}
    table = crossed.matrix(cells, outcomes, ["ppl"], ["acc"]).set_index(["outcome", "objective"])
    assert table["mean"].loc["ppl"].to_dict() == pytest.approx({"o0": 20.0, "o1": 100.0})
    assert table["mean"].loc["same"].to_dict() == pytest.approx({"o0": 20.0, "o1": 505.0})
    assert table["cost"].loc["ppl"].to_dict() == pytest.approx({"o0": 0.0, "o1": 80.0})
    assert table["cost"].loc["acc"].to_dict() == pytest.approx({"o0": 505.0 - 20.0, "o1": 0.0})
    assert set(table["cells"]) == {2}
    ends = table[["median", "lowest", "highest"]].loc["ppl"].loc["o1"]
    assert ends.tolist() == pytest.approx([100.0, 10.0, 1000.0])


def test_means_have_intervals_over_draws() -> None:
    cells = frame(objectives=2, data=1, draws=4, algos=2)
    values = pd.Series(np.exp(np.random.default_rng(0).normal(3, 0.2, len(cells))), cells.index)
    table = crossed.matrix(cells, {"ppl": values, "same": values}, ["ppl"])
    ends = table.set_index(["outcome", "objective"])[["low", "high"]]
    for objective, own in cells.groupby("objective"):
        for outcome, of, back in (("same", values, lambda x: x), ("ppl", np.log(values), np.exp)):
            by_draw = of[own.index].groupby(own["draw"]).mean()
            half = stats.t.ppf(0.975, 3) * by_draw.std() / 2
            expected = back(np.array([by_draw.mean() - half, by_draw.mean() + half]))
            assert list(ends.loc[(outcome, objective)]) == pytest.approx(expected.tolist())


def test_pareto_front() -> None:
    nan = float("nan")
    assert crossed.pareto([1, 2, 3, 2, nan], [3, 2, 2, 1, 0]) == [True, False, False, True, False]
    assert crossed.pareto([1, 1], [2, 2]) == [True, True]
