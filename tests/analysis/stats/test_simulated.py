"""Simulated studies: do they have the asked components? How often are they decided, where the answer is clear?"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats import simulated
from analysis.stats.components import CALIBRATION, DRAWN, RESIDUAL, Design, Shares, refused, shares
from analysis.stats.grid import SETTING, STRATUM
from analysis.stats.projections import of_values
from analysis.stats.simulated import (
    Pilot,
    Scenario,
    equalised,
    noise_alone,
    power,
    power_refusal,
    ratio,
    with_draws,
)
from tests.helpers.analysis_grid import frame
from tests.helpers.known_shares import BOTH, DATA, MASKS, SEARCH
from tests.helpers.noisy_answers import answers, noisy_cells

SHAPE = (3, 2, 4, 5)  # objectives, data sets of each, draws of each, algorithms
STUDIES = 400
ASKED = {"objective": 0.3, DATA: 0.1, DRAWN: 0.2, SEARCH: 0.05, BOTH: 0.15, RESIDUAL: 0.25}


DESIGN = Design(frame(*SHAPE))


def scenario(**changes: Any) -> Scenario:
    """One stratum, in which all effects of draws are independent."""
    return dataclasses.replace(Scenario(DESIGN, ASKED, [*STRATUM, *SETTING]), **changes)


def studies(of: Scenario) -> Any:
    """Many studies of numbers (studies, *SHAPE)."""
    return np.array([of.study(seed)[:, 0].reshape(SHAPE) for seed in range(STUDIES)])


def plain_components(y: Any) -> dict[str, float]:
    """The textbook estimates for a balanced grid of numbers (objectives, data, draws, algorithms)."""
    objectives, data, draws, algos = y.shape
    setting, panel, objective = y.mean(3), y.mean((2, 3)), y.mean((1, 2, 3))
    search, both = y.mean((0, 1, 2)), y.mean((1, 2))
    added = both - objective[:, None] - search + y.mean()
    rest = y - setting[..., None] - (both - objective[:, None])[:, None, None]
    free = y.size - objectives * data * draws - algos + 1 - (objectives - 1) * (algos - 1)
    of_rest = (rest**2).sum() / free
    of_draw = setting.var(axis=2, ddof=1).mean()
    of_data = panel.var(axis=1, ddof=1).mean()
    return {
        "objective": objective.var(ddof=1) - of_draw / (data * draws),
        DATA: of_data - of_draw / draws,
        DRAWN: of_draw - of_rest / algos,
        SEARCH: search.var(ddof=1) - of_rest / (objectives * data * draws),
        BOTH: ((added**2).sum() / ((objectives - 1) * (algos - 1))) - of_rest / (data * draws),
        RESIDUAL: of_rest,
    }


def means(of: Scenario) -> dict[str, tuple[float, float]]:
    """The mean of each plain estimate over many studies, and its standard error."""
    found = [plain_components(y) for y in studies(of)]
    every = {name: np.array([each[name] for each in found]) for name in ASKED}
    return {name: (v.mean(), v.std(ddof=1) / np.sqrt(STUDIES)) for name, v in every.items()}


def test_studies_have_the_asked_components() -> None:
    for name, (mean, error) in means(scenario()).items():
        assert abs(mean - ASKED[name]) < 4 * error, name
        assert 4 * error < 0.15 * ASKED[name] + 0.01, f"{name}: the test can see a wrong size"


def test_fixed_effects_have_exactly_their_variance() -> None:
    only = scenario(components={SEARCH: 0.7})
    y = only.study(0)[:, 0].reshape(SHAPE)
    assert y.mean((0, 1, 2)).var(ddof=1) == pytest.approx(0.7)
    assert np.ptp(y, axis=(0, 1, 2)) == pytest.approx(0)


def test_objectives_share_the_effects_of_draws_that_they_share() -> None:
    shared = Scenario(DESIGN, {DRAWN: 1.0})
    y = shared.study(0)[:, 0].reshape(SHAPE)
    np.testing.assert_array_equal(y[0], y[1])
    assert np.ptp(y[0], axis=1).min() > 0


def test_the_noise_of_objectives_can_differ() -> None:
    noise = {DRAWN: {"o0": 9.0}, RESIDUAL: {"o1": 3.0}}
    drawn = studies(scenario(components={DRAWN: 0.2}, noise=noise)).var(axis=(0, 2, 3, 4))
    assert drawn[0] / drawn[1:] == pytest.approx([9, 9], rel=0.15)
    assert drawn.mean() == pytest.approx(0.2, rel=0.05)
    rest = studies(scenario(components={RESIDUAL: 0.5}, noise=noise)).var(axis=(0, 2, 3, 4))
    assert rest[1] / rest[[0, 2]] == pytest.approx([3, 3], rel=0.05)
    assert rest.mean() == pytest.approx(0.5, rel=0.05)


def test_the_variance_is_divided_among_dimensions() -> None:
    five = scenario(components={DRAWN: 0.2, SEARCH: 0.1}, dimensions=5)
    y = np.array([five.study(seed) for seed in range(100)])
    assert y.shape == (100, 120, 5)
    shaped = y.reshape(100, *SHAPE, 5)
    drawn = shaped.mean(axis=4).var(axis=3, ddof=1).mean(axis=(0, 1, 2))
    assert drawn == pytest.approx(np.full(5, 0.2 / 5), rel=0.15)
    search = (shaped - shaped.mean(axis=4, keepdims=True)).mean(axis=(1, 2, 3))
    assert (search**2).sum(axis=(1, 2)) / 4 == pytest.approx(np.full(100, 0.1))
    estimated = [scenario(dimensions=5).shares(seed, 19).parts["search"].value for seed in range(20)]
    assert np.mean(estimated) == pytest.approx(ASKED[SEARCH] / sum(ASKED.values()), abs=0.01)


def test_a_design_keeps_its_cells_and_gets_other_draws() -> None:
    cells = frame(objectives=2, data=1, draws=3, algos=2)
    cells = cells[~((cells["objective"] == "o1") & (cells["algo"] == "algo1") & (cells["draw"] > 0))]
    repeated = with_draws(cells, 5)
    counts = repeated.groupby(["objective", "algo"])["draw"].nunique()
    assert list(counts) == [5, 5, 5, 5]
    assert len(repeated) == 20


# -- power -----------------------------------------------------------------------------------------------------

CLEAR = {"objective": 0.4, DRAWN: 0.2, SEARCH: 0.05, RESIDUAL: 0.35}
BOTH_RATIOS = ["calibration : search", "objective : search"]


def pilot(components: dict[str, float] = CLEAR) -> Pilot:
    return Pilot(frame(objectives=3, data=1, draws=2, algos=4), STRATUM, components, {}, 1)


def test_more_draws_decide_more_studies() -> None:
    few, many = (power(pilot().scenario(draws), 30, 99) for draws in (6, 14))
    assert list(many) == BOTH_RATIOS
    assert few["objective : search"].decided < 18
    assert many["objective : search"].decided >= 26
    assert many["calibration : search"].decided >= max(29, few["calibration : search"].decided)
    assert many["calibration : search"].value == pytest.approx(0.95 / 0.40)
    assert many["objective : search"].value == pytest.approx(0.75 / 0.40)


def test_equal_sides_are_rarely_decided() -> None:
    """At 5 percent, at most 7 of 60 studies are decided in 99 of 100 tables."""
    found = power(pilot().scenario(8), 60, 199)["calibration : search"]
    assert found.studies == 60
    assert found.if_equal <= stats.binom.ppf(0.99, 60, 0.05)
    assert found.decided > 50, "the same design can decide"


def test_both_sides_become_equal_and_the_rest_stays() -> None:
    moved = equalised(MASKS, CALIBRATION)
    assert moved[SEARCH] == pytest.approx((0.66 + 0.01) / 2)
    assert moved["objective"] == pytest.approx(0.335 * 0.37 / 0.66)
    assert moved[DRAWN] / moved[DATA] == pytest.approx(0.24 / 0.05)
    assert (moved[BOTH], moved[RESIDUAL]) == (0.03, 0.3)
    assert ratio(moved, CALIBRATION) == pytest.approx(1)
    only = equalised(MASKS, ("objective",))
    assert (only["objective"], only[SEARCH]) == (pytest.approx(0.19), pytest.approx(0.19))
    assert only[DRAWN] == 0.24
    nothing = equalised({"objective": 0.0, DRAWN: 0.0, SEARCH: 0.4, RESIDUAL: 0.6}, CALIBRATION)
    assert nothing == pytest.approx({"objective": 0.1, DRAWN: 0.1, SEARCH: 0.2, RESIDUAL: 0.6})


def test_a_study_with_one_objective_has_one_ratio() -> None:
    one = Pilot(
        frame(objectives=1, data=2, draws=3, algos=4), STRATUM, {DATA: 0.4, DRAWN: 0.2, SEARCH: 0.4}, {}, 1
    )
    assert list(power(one.scenario(3), 2, 49)) == ["calibration : search"]


def test_a_pilot_has_the_noise_of_its_study() -> None:
    """Under o0, the noise has variance 16 and one axis; under o1, variance 1 and three axes."""
    cells = frame(objectives=2, data=1, draws=40, algos=5)
    rng = np.random.default_rng(0)
    first = (cells["objective"] == "o0").to_numpy()[:, None]
    noise = np.where(first, rng.normal(size=(400, 1)) * [4, 0, 0], rng.normal(size=(400, 3)) / np.sqrt(3))
    mean = (cells["algo"].str[-1].astype(float) * 100).to_numpy()[:, None]
    of = dataclasses.replace(of_values(np.zeros(400)), x=noise + mean, signs=np.ones(3))
    found = Pilot.of(cells, [of], STRATUM, _shares(cells))
    assert found.noise["o0"] / found.noise["o1"] == pytest.approx(16, rel=0.2)
    assert found.noise["o0"] + found.noise["o1"] == pytest.approx(2)
    assert found.dimensions == 2, "the mean over objectives"
    assert found.components[DRAWN] > 0
    assert "samples" not in found.components, "not varied"


def _shares(cells: pd.DataFrame, seed: int = 0) -> Shares:
    y = np.random.default_rng(seed).normal(size=len(cells))
    return shares(cells, [of_values(y)], resamples=49)


def test_studies_that_are_no_pilot_say_why() -> None:
    once = frame(objectives=3, data=1, draws=1, algos=5)
    assert power_refusal(once, _shares(once)).startswith("0 degrees of freedom are left for noise")
    mostly = pd.concat(
        [once, frame(objectives=1, data=1, draws=3, algos=5).query("draw > 0")], ignore_index=True
    )
    reason = "most configurations were drawn once, so the noise of a draw is unknown"
    assert power_refusal(mostly, _shares(mostly)) == reason
    few = frame(objectives=2, data=1, draws=2, algos=5)
    assert _shares(few).note == "no interval: 2 draws; at least 6 are needed"
    assert power_refusal(few, _shares(few)) == "", "a pilot can be smaller than what it plans"
    assert power_refusal(few, refused(3, 1, "one algorithm only")) == "one algorithm only"


# -- noise alone -----------------------------------------------------------------------------------------------


def test_a_verdict_that_noise_reaches_too_often_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = noisy_cells()
    without = noise_alone(cells)
    assert without.too_often
    assert without.studies < simulated.STUDIES, "the simulation ends when the answer is clear"
    monkeypatch.setattr(simulated, "STUDIES", 20)
    objective = cells["objective"].map({"o0": -0.15, "o1": -0.05, "o2": 0.05, "o3": 0.15}).to_numpy()
    found = noise_alone(cells, answers(cells, 3, objective))
    assert (found.studies, found.too_often) == (20, False), "also if the study itself has an effect"
