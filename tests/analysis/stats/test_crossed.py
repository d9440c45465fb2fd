from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.figures import fig6_crossed
from analysis.stats import crossed, stability
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
    table = crossed.matrix(cells, {"ppl": values, "same": values}, ["ppl"]).set_index(
        ["outcome", "objective"]
    )
    assert table["mean"].loc["ppl"].to_dict() == pytest.approx({"o0": 20.0, "o1": 100.0})
    assert table["mean"].loc["same"].to_dict() == pytest.approx({"o0": 20.0, "o1": 505.0})
    assert table["cost"].loc["ppl"].to_dict() == pytest.approx({"o0": 0.0, "o1": 80.0})
    assert table["sd"].loc["ppl"].to_dict() == pytest.approx({"o0": 1.0, "o1": 10 ** (2**0.5)})  # a factor


def test_means_have_intervals_over_draws() -> None:
    cells = frame(objectives=2, data=1, draws=4, algos=2)
    values = pd.Series(np.exp(np.random.default_rng(0).normal(3, 0.2, len(cells))), cells.index)
    table = crossed.matrix(cells, {"ppl": values, "same": values}, ["ppl"]).set_index(
        ["outcome", "objective"]
    )
    for objective, own in cells.groupby("objective"):
        by_draw = values[own.index].groupby(own["draw"]).mean()
        half = stats.t.ppf(0.975, 3) * by_draw.std() / 2
        ends = table.loc[("same", objective), ["low", "high"]]
        assert list(ends) == pytest.approx([by_draw.mean() - half, by_draw.mean() + half])
        logs = np.log(values[own.index]).groupby(own["draw"]).mean()
        half = stats.t.ppf(0.975, 3) * logs.std() / 2
        ends = table.loc[("ppl", objective), ["low", "high"]]
        assert list(ends) == pytest.approx(np.exp([logs.mean() - half, logs.mean() + half]).tolist())


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
    trace = [
        score([], [1.0]),
        score([1, 3], [0.5]),
        score([0, 1], [3.0]),
        score([0, 2], [0.1]),
        score([2, 3], [2.0]),
    ]
    curve = crossed.anytime(trace, 1, {}, BUDGET)  # type: ignore[arg-type]
    assert curve[["scores", "best"]].to_dict("list") == {"scores": [2, 4], "best": [3.0, 2.0]}


def test_the_last_decision_with_a_budget_is_among_masks_of_that_cost() -> None:
    losses = np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]])
    trace = trace_of(losses, [[0, 1], [2, 3], [1, 3]])
    decision = stability.last_decision(trace, 1, BUDGET)  # type: ignore[arg-type]
    assert decision is not None
    assert decision.candidates == ((0, 1), (2, 3))
    assert list(np.flatnonzero(decision.chosen)) == [0, 1]


def test_single_units_are_a_decision_with_a_budget_only_if_they_cost_the_same() -> None:
    trace = trace_of(np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]]), [[0], [2], [4]])
    alike = BUDGET | {"costs": [1, 3, 1, 3, 1, 3], "least": 2, "most": 2}
    decision = stability.last_decision(trace, 1, alike)  # type: ignore[arg-type]
    assert decision is not None
    assert list(np.flatnonzero(decision.chosen)) == [0, 4]
    unlike = alike | {"costs": [1, 3, 2, 3, 1, 3]}
    assert stability.last_decision(trace, 1, unlike) is None  # type: ignore[arg-type]


def test_pareto_front() -> None:
    nan = float("nan")
    assert crossed.pareto([1, 2, 3, 2, nan], [3, 2, 2, 1, 0]) == [True, False, False, True, False]
    assert crossed.pareto([1, 1], [2, 2]) == [True, True]


def trace_of(losses: np.ndarray, masks: list[list[int]]) -> list[dict[str, object]]:  # type: ignore[type-arg]
    return [score(mask, list(row)) for mask, row in zip(masks, losses, strict=True)]


def test_a_clear_decision_is_stable_and_a_tie_is_a_coin() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 64))
    clear = stability.last_decision(trace_of(noise + np.array([[0.0], [5.0]]), [[1, 2], [1, 3]]), 2)
    assert clear is not None
    assert stability.resampled(clear) == (0.0, 1.0)
    noise[1] += noise[0].mean() - noise[1].mean() + 1e-6
    tie = stability.last_decision(trace_of(noise, [[1, 2], [1, 3]]), 2)
    assert tie is not None
    other, overlap = stability.resampled(tie)
    assert 0.4 < other < 0.6
    assert overlap == pytest.approx(1 - other * (2 / 3))


def test_one_shot_is_decided_by_single_blocks() -> None:
    losses = np.array([[3.0, 3.1], [1.0, 1.1], [2.0, 2.1], [1.0, 2.1]])
    trace = trace_of(losses, [[0], [1], [2], [1, 2]])
    decision = stability.last_decision(trace, 2)
    assert decision is not None
    assert decision.size == 2
    assert np.flatnonzero(decision.chosen).tolist() == [1, 2]
    assert stability.last_decision(trace[:2], 2) is None
    assert "no rival" in stability.refusal(trace[:2])
    assert "missing" in stability.refusal([])
    weighted = [{**line, "loss": 9.0 * n} for n, line in enumerate(trace)]
    assert stability.last_decision(weighted, 2) is None
    assert "not a plain mean" in stability.refusal(weighted)


def test_resampling_agrees_with_the_normal_theory() -> None:
    """With two candidates, P(other) is about the normal tail at the paired z of their difference."""
    from scipy import stats

    rng = np.random.default_rng(2)
    a = rng.normal(size=200)
    b = a + rng.normal(0.05, 0.5, size=200)
    decision = stability.last_decision(trace_of(np.array([a, b]), [[1], [2]]), 1)
    assert decision is not None
    z = abs(np.mean(b - a)) / (np.std(b - a) / np.sqrt(200))
    assert stability.resampled(decision, 4000)[0] == pytest.approx(stats.norm.sf(z), abs=0.03)


def test_agreement_grows_with_samples_and_disjoint_halves_agree_least() -> None:
    rng = np.random.default_rng(1)
    losses = rng.normal(size=(6, 64)) + np.arange(6)[:, None] * 0.4
    decision = stability.last_decision(trace_of(losses, [[i] for i in range(6)]), 1)
    assert decision is not None
    curve = stability.curve(decision)
    assert list(curve["n"]) == [1, 2, 4, 8, 16, 32]
    assert curve["same"].is_monotonic_increasing
    assert (curve["pair"] <= curve["same"] + 0.05).all()
    assert stability.enough(curve) in (16, 32)


def test_enough_is_where_agreement_stays() -> None:
    curve = pd.DataFrame({"n": [1, 2, 4, 8], "same": [0.95, 0.5, 0.9, 0.99]})
    assert stability.enough(curve) == 4
    assert stability.enough(curve.assign(same=0.5)) is None
    assert stability.enough(curve.assign(same=1.0)) == 1


def test_a_panel_is_exact_only_where_all_its_problems_were_enumerated() -> None:
    labels = [
        fig6_crossed._known(pd.Series(exact)) for exact in ([True, True], [True, False], [False, False])
    ]
    assert labels == ["exact", "exact in part", "best known"]
