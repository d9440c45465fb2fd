"""Simulated studies: do they have the asked components? The numbers come from plain mean squares."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from analysis.stats.components import DRAWN, RESIDUAL, Design, Scenario, with_draws
from analysis.stats.grid import SETTING, STRATUM
from tests.helpers.analysis_grid import frame
from tests.helpers.known_shares import BOTH, DATA, SEARCH

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
