"""Costs of objectives in other outcomes, and the progress of searches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats import crossed
from tests.helpers.analysis_grid import frame


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


def test_pareto_front() -> None:
    nan = float("nan")
    assert crossed.pareto([1, 2, 3, 2, nan], [3, 2, 2, 1, 0]) == [True, False, False, True, False]
    assert crossed.pareto([1, 1], [2, 2]) == [True, True]
