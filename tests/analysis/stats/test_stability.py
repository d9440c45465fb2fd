"""Whether other calibration samples would give another mask, and how masks change with their number."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.stats import stability
from analysis.stats.stability import Decision
from tests.helpers.traces import BUDGET, score


def trace_of(losses: np.ndarray, masks: list[list[int]]) -> list[dict[str, object]]:  # type: ignore[type-arg]
    return [score(mask, list(row)) for mask, row in zip(masks, losses, strict=True)]


def decided(losses: np.ndarray, masks: list[list[int]], k: int, budget: object = None) -> Decision:  # type: ignore[type-arg]
    decision = stability.last_decision(trace_of(losses, masks), k, budget)  # type: ignore[arg-type]
    assert decision is not None
    return decision


def test_a_clear_decision_is_stable_and_a_tie_is_a_coin() -> None:
    noise = np.random.default_rng(0).normal(size=(2, 64))
    clear = decided(noise + np.array([[0.0], [5.0]]), [[1, 2], [1, 3]], 2)
    assert stability.resampled(clear) == 0.0
    noise[1] += noise[0].mean() - noise[1].mean() + 1e-6
    assert 0.4 < stability.resampled(decided(noise, [[1, 2], [1, 3]], 2)) < 0.6


def test_one_shot_is_decided_by_single_blocks() -> None:
    losses = np.array([[3.0, 3.1], [1.0, 1.1], [2.0, 2.1], [1.0, 2.1]])
    masks = [[0], [1], [2], [1, 2]]
    decision = decided(losses, masks, 2)
    assert decision.size == 2
    assert np.flatnonzero(decision.chosen).tolist() == [1, 2]
    trace = trace_of(losses, masks)
    weighted = [{**line, "loss": 9.0 * n} for n, line in enumerate(trace)]
    for refused, reason in ((trace[:2], "no rival"), ([], "missing"), (weighted, "not a plain mean")):
        assert stability.last_decision(refused, 2) is None
        assert reason in stability.refusal(refused)


def test_a_decision_with_a_budget_is_among_masks_of_that_cost_or_units_of_one_cost() -> None:
    losses = np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]])
    decision = decided(losses, [[0, 1], [2, 3], [1, 3]], 1, BUDGET)
    assert decision.candidates == ((0, 1), (2, 3))
    assert list(np.flatnonzero(decision.chosen)) == [0, 1]
    alike = BUDGET | {"costs": [1, 3, 1, 3, 1, 3], "least": 2, "most": 2}
    assert list(np.flatnonzero(decided(losses, [[0], [2], [4]], 1, alike).chosen)) == [0, 4]
    unlike = alike | {"costs": [1, 3, 2, 3, 1, 3]}
    assert stability.last_decision(trace_of(losses, [[0], [2], [4]]), 1, unlike) is None  # type: ignore[arg-type]


def test_resampling_agrees_with_the_normal_theory() -> None:
    """With two candidates, P(other) is about the normal tail at the paired z of their difference."""
    rng = np.random.default_rng(2)
    a = rng.normal(size=200)
    b = a + rng.normal(0.05, 0.5, size=200)
    z = abs(np.mean(b - a)) / (np.std(b - a) / np.sqrt(200))
    decision = decided(np.array([a, b]), [[1], [2]], 1)
    assert stability.resampled(decision, 4000) == pytest.approx(stats.norm.sf(z), abs=0.03)


def test_agreement_grows_with_samples() -> None:
    rng = np.random.default_rng(1)
    losses = rng.normal(size=(6, 64)) + np.arange(6)[:, None] * 0.4
    curve = stability.curve(decided(losses, [[i] for i in range(6)], 1))
    assert list(curve["n"]) == [1, 2, 4, 8, 16, 32]
    assert curve["pair"].is_monotonic_increasing


def test_the_two_subsets_of_a_pair_have_no_sample_in_common() -> None:
    """Two samples that prefer different masks: no sample of one subset may tip the other."""
    opposed = decided(np.array([[0.0, 1.0], [1.0, 0.0]]), [[1], [2]], 1)
    assert stability.curve(opposed)["pair"].tolist() == [0.0]
