"""Costs of objectives in other outcomes, and the progress of searches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats import crossed
from tests.helpers.analysis_grid import frame
from tests.helpers.traces import BUDGET, score


def test_crossed_matrix_has_the_best_objective_at_zero_cost() -> None:
    cells = frame(objectives=2, data=1, draws=2, algos=2)
    second = (cells["objective"] == "o1").astype(float)
    table = crossed.matrix(cells, {"ppl": 10 + second, "acc": -50 - 5 * second})
    costs = table.set_index(["objective", "outcome"])["cost"]
    assert costs.to_dict() == {("o0", "ppl"): 0, ("o1", "ppl"): 1, ("o0", "acc"): 5, ("o1", "acc"): 0}
    assert set(table["cells"]) == {4}


def test_perplexities_have_geometric_means_that_one_broken_model_does_not_decide() -> None:
    cells = frame(objectives=2, data=1, draws=2, algos=1)
    values = pd.Series(20.0, index=cells.index)
    values[cells["objective"] == "o1"] = [10.0, 1000.0]
    table = crossed.matrix(cells, {"ppl": values, "same": values}, ["ppl"])
    table = table.set_index(["outcome", "objective"])
    assert table["mean"].loc["ppl"].to_dict() == pytest.approx({"o0": 20.0, "o1": 100.0})
    assert table["mean"].loc["same"].to_dict() == pytest.approx({"o0": 20.0, "o1": 505.0})
    assert table["cost"].loc["ppl"].to_dict() == pytest.approx({"o0": 0.0, "o1": 80.0})
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


def test_anytime_charges_every_mask_even_if_its_score_was_reused() -> None:
    trace = [score([], [1.0]), score([1], [2.0], 0.0), score([1, 2], [3.0], 2.0), score([2, 3], [2.5], 0.0)]
    paid = crossed.seconds([trace, [score([1], [2.0], 4.0), score([2, 3], [2.5], 8.0)]])
    curve = crossed.anytime(trace, 2, paid)
    assert curve.to_dict("list") == {"scores": [2, 3], "seconds": [6.0, 14.0], "best": [3.0, 2.5]}
    other = crossed.anytime(trace, 2, paid, losses={(1, 2): 3.1, (2, 3): 2.6})
    assert list(other["best"]) == [3.1, 2.6]
    chosen = crossed.anytime(trace, 2, paid, losses={(1, 2): 2.4, (2, 3): 2.6})
    assert list(chosen["best"]) == [2.4, 2.6]  # the search prefers (2, 3) by its own losses


def test_partial_scores_of_a_race_count_as_masks_and_cost_their_share() -> None:
    part = score([1], [2.0, 2.0], 1.0) | {"of": 4}
    better = score([2, 3], [0.5, 0.5], 2.0) | {"of": 4}  # easy samples; the mask is never scored in full
    trace = [part, score([1], [2.0] * 4, 3.0), better, score([1, 2], [3.0] * 4, 4.0)]
    curve = crossed.anytime(trace, 2, crossed.seconds([trace]))
    assert curve.to_dict("list") == {"scores": [3], "seconds": [3.0 + 2.0 + 4.0], "best": [3.0]}
    trace.append(score([2, 3], [2.5] * 4, 3.0))  # the race goes on: no new mask
    curve = crossed.anytime(trace, 2, crossed.seconds([trace]))
    assert curve.to_dict("list") == {"scores": [3], "seconds": [3.0 + 3.0 + 4.0], "best": [2.5]}


def test_anytime_with_a_budget_counts_masks_of_any_size() -> None:
    losses = {(): 1.0, (1, 3): 0.5, (0, 1): 3.0, (0, 2): 0.1, (2, 3): 2.0}
    trace = [score(list(mask), [loss]) for mask, loss in losses.items()]
    curve = crossed.anytime(trace, 1, {}, BUDGET)  # type: ignore[arg-type]
    assert curve[["scores", "best"]].to_dict("list") == {"scores": [2, 4], "best": [3.0, 2.0]}


def test_pareto_front() -> None:
    nan = float("nan")
    assert crossed.pareto([1, 2, 3, 2, nan], [3, 2, 2, 1, 0]) == [True, False, False, True, False]
    assert crossed.pareto([1, 1], [2, 2]) == [True, True]
