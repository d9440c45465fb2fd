"""Simulated studies on the design of the archived one: do intervals cover the known truth?"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from analysis.stats import components as components_module
from analysis.stats.components import EVERY, RESIDUAL, report
from tests.helpers.known_shares import MASKS, NULL_OBJECTIVE, SCENARIOS, Coverage, coverage, scenario

STUDIES = 200
LEAST = 0.92


@cache
def covered(name: str) -> dict[str, Coverage]:
    return coverage(SCENARIOS[name], STUDIES, 199)


@pytest.mark.parametrize(
    "name",
    [
        "loss",
        "search equals calibration",
        "one objective 100 times noisier",
        "null search",
        "large interaction",
    ],
)
def test_intervals_cover_the_known_truth(name: str) -> None:
    for quantity, found in covered(name).items():
        assert found.covered >= LEAST, quantity


def test_estimates_are_near_the_known_truth() -> None:
    """Shares are ratios of estimates. Without the correction of bias, the ratio for the loss is 12 percent low."""
    for quantity in ("calibration", "search", "interaction", "draw"):
        found = covered("loss")[quantity]
        assert found.mean == pytest.approx(found.truth, abs=0.03), quantity
    ratio = covered("loss")["ratio with interaction"]
    assert ratio.median == pytest.approx(ratio.truth, rel=0.08)


def test_a_search_without_effect_is_said_to_have_none() -> None:
    found = covered("null search")
    assert found["search"].covered >= LEAST
    assert found["search"].mean < 0.01
    assert found["ratio with interaction"].covered >= LEAST


def test_intervals_are_narrow_enough_to_decide() -> None:
    """With six draws of every data set, a ratio of 2.9 is told from 1 in nearly every study."""
    found = [scenario(MASKS, draws=6).shares(seed, 199).total_ratio for seed in range(20)]
    assert np.mean([ratio.low > 1 for ratio in found]) >= 0.9


def test_without_the_widening_intervals_are_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """With symmetric errors instead of the chi-square of so few draws, the test of coverage fails."""
    monkeypatch.setattr(
        components_module, "widened", lambda observed, drawn: observed - (drawn - drawn.mean(axis=0))
    )
    found = coverage(SCENARIOS["one objective 100 times noisier"], STUDIES, 199)
    assert found["draw"].covered < LEAST


@pytest.mark.parametrize(("search", "expected"), [(-0.3, 1.0), (0.2, 1.0 / 1.2)])
def test_a_ratio_needs_a_calibration_to_be_above_one(search: float, expected: float) -> None:
    """The interaction must not make up for a negative component: with -0.1 + 1 above -0.3 + 1, it would be 1.29."""
    component = {"objective": -0.1, "algorithm": search, RESIDUAL: 1.0}
    estimate = np.array([[component.get(name, 0.0) for name in EVERY]])
    shares = report(estimate, None, dict.fromkeys(EVERY, 3), 40, 6, "no interval")
    assert shares.total_ratio.value == shares.objective_ratio.value == pytest.approx(expected)


NO_OBJECTIVE = scenario(NULL_OBJECTIVE, shared=False)


def test_the_noise_of_draws_is_not_taken_for_an_effect_of_the_objective() -> None:
    """The component is unbiased; with the draws' noise in it, its mean would be 0.5 / 6."""
    components, lows = [], []
    for seed in range(60):
        sources = NO_OBJECTIVE.shares(seed, 99).sources
        objective = sources.set_index("source").loc["objective"]
        components.append(objective["component"])
        lows.append(objective["low"])
    error = np.std(components, ddof=1) / np.sqrt(len(components))
    assert abs(np.mean(components)) < 3 * error
    assert 3 * error < 0.5 / 6 / 2, "the test can see the noise"
    assert np.mean(np.array(lows) <= 1e-9) >= LEAST
