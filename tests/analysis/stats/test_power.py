"""How often simulated studies are decided, in cases in which the answer is clear."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats.components import (
    CALIBRATION,
    DRAWN,
    RESIDUAL,
    Design,
    Pilot,
    Scenario,
    Shares,
    equalised,
    of_values,
    power,
    power_refusal,
    ratio,
    refused,
    shares,
)
from analysis.stats.grid import STRATUM
from tests.helpers.analysis_grid import frame
from tests.helpers.known_shares import BOTH, DATA, MASKS, SEARCH

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


def test_the_shares_of_simulated_studies_are_those_of_the_pilot() -> None:
    cells = frame(objectives=3, data=1, draws=6, algos=5)
    of = [of_values(Scenario(Design(cells), CLEAR).study(1)[:, 0])]
    own = shares(cells, of, resamples=99)
    again = Pilot.of(cells, of, STRATUM, own).scenario(12)
    parts = [again.shares(seed, 49).parts for seed in range(20)]
    for part, share in own.parts.items():
        assert np.mean([each[part].value for each in parts]) == pytest.approx(share.value, abs=0.05)


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
