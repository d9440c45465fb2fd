"""Shares of variance: textbook values, known effects, coverage of intervals, and the noise of items."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats import components, variance
from analysis.stats.components import (
    EVERY,
    PANEL,
    RESIDUAL,
    Design,
    IntervalEstimate,
    Shares,
    borrowed,
    compressed,
    item_noise,
    report,
    shares,
    widened,
)
from analysis.stats.grid import DRAW, labels
from analysis.stats.projections import of_values
from tests.helpers.analysis_grid import effect, frame
from tests.helpers.known_shares import MASKS, NULL_OBJECTIVE, SCENARIOS, Coverage, coverage, scenario
from tests.helpers.noisy_answers import answers, noisy_cells

STUDIES = 200
LEAST = 0.92


def shares_of(cells: pd.DataFrame, y: Any) -> Shares:
    return shares(cells, variance.outcome(cells, y), resamples=300)


def component(cells: pd.DataFrame, y: Any, resamples: int) -> Any:
    return shares(cells, [of_values(y)], resamples=resamples).sources.set_index("source")["component"]


def test_variance_components_of_a_balanced_grid_are_the_textbook_ones() -> None:
    rng = np.random.default_rng(0)
    cells = frame(objectives=1, data=1, draws=6, algos=5)
    y = effect(cells, ["draw"], 1, rng) + effect(cells, ["algo"], 1, rng) + rng.normal(size=30)
    table = y.reshape(6, 5)
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    error = np.sum(rest**2) / 20
    by_source = component(cells, y, 20)
    assert by_source["algorithm"] == pytest.approx(np.var(table.mean(0), ddof=1) - error / 6)
    assert by_source["draw (seed)"] == pytest.approx(np.var(table.mean(1), ddof=1) - error / 5)
    assert by_source[RESIDUAL] == pytest.approx(error)


@pytest.mark.slow
def test_components_are_unbiased_where_cells_are_missing() -> None:
    values = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        cells = frame(objectives=1, data=2, draws=4, algos=4)
        cells = cells[rng.random(len(cells)) > 0.25].reset_index(drop=True)
        y = effect(cells, ["draw", "calibration"], 2.0, rng) + effect(cells, ["algo"], 1.0, rng)
        table = component(cells, y + rng.normal(size=len(cells)), 2)
        values.append([table["draw (seed)"], table["algorithm"], table[RESIDUAL]])
    means, errors = np.mean(values, axis=0), np.std(values, axis=0) / np.sqrt(len(values))
    np.testing.assert_array_less(np.abs(means - [4.0, 1.0, 1.0]), 3 * errors)


def test_no_ratio_is_infinite() -> None:
    """If the search explains nothing, its share has an upper end and the ratio a lower one, and no value."""
    rng = np.random.default_rng(0)
    cells = frame(models=("a", "b"))
    y = effect(cells, ["objective"], 1.0, rng) + 1e-9 * rng.normal(size=len(cells))
    found = [shares_of(cells, y + 0.2 * rng.normal(size=len(cells))) for _ in range(6)]
    assert any(math.isinf(s.ratio.high) for s in found)
    for s in found:
        for ratio in (s.ratio, s.total_ratio, s.objective_ratio, s.objective_draw):
            assert not math.isinf(ratio.value)
            assert not math.isinf(ratio.low)
        for part in s.parts.values():
            assert 0 <= part.low <= part.value <= part.high <= 1, "cut off at 0 and 1"


def test_shares_do_not_depend_on_the_units_of_a_stratum() -> None:
    rng = np.random.default_rng(2)
    cells = frame(models=("a", "b"))
    y = effect(cells, ["objective"], 1.0, rng) + rng.normal(size=len(cells))
    other = np.where(cells["model"] == "a", 1000.0 * y, y)
    first, second = (shares(cells, variance.plain(cells, v), resamples=50) for v in (y, other))
    for name, part in first.parts.items():
        found = second.parts[name]
        assert (found.value, found.high) == pytest.approx((part.value, part.high))


def test_the_objective_is_compared_with_search_and_draw() -> None:
    rng = np.random.default_rng(3)
    cells = frame(models=("a", "b"), draws=4)
    y = effect(cells, ["objective"], 2.0, rng) + effect(cells, ["calibration", "draw"], 0.5, rng)
    found = shares_of(cells, y + 0.3 * rng.normal(size=len(cells)))
    rows, interaction = found.sources.set_index("source")["share"], found.parts["interaction"].value
    assert found.objective_draw.value == pytest.approx(rows["objective"] / rows["draw (seed)"], rel=0.02)
    expected = (rows["objective"] + interaction) / (found.parts["search"].value + interaction)
    assert found.objective_ratio.value == pytest.approx(expected, rel=0.1)
    one = shares_of(cells[cells["objective"] == "o0"].reset_index(drop=True), y[cells["objective"] == "o0"])
    assert math.isnan(one.objective_ratio.value), "one objective has nothing to be compared with"


@pytest.mark.parametrize(
    ("sizes", "reason", "known"),
    [
        ({"algos": 1}, "one algorithm only", False),
        ({"objectives": 1, "data": 1, "draws": 1}, "one calibration only", False),
        ({"objectives": 2, "data": 1, "draws": 1, "algos": 2}, "degrees of freedom", False),
        ({"draws": 1, "data": 8}, "drawn once", True),
        ({"draws": 2, "data": 2}, "4 draws; at least 6", True),
    ],
)
def test_too_few_cells_for_shares_or_for_an_interval(sizes: dict[str, Any], reason: str, known: bool) -> None:
    cells = frame(**sizes)
    found = shares_of(cells, np.random.default_rng(0).normal(size=len(cells)))
    assert reason in found.note
    assert math.isnan(found.parts["search"].value) != known
    assert math.isnan(found.parts["search"].low)


# -- simulated studies on the design of the archived one: do intervals cover the known truth? --------------------


@cache
def covered(name: str) -> dict[str, Coverage]:
    return coverage(SCENARIOS[name], STUDIES, 199)


NOISIER = "one objective 100 times noisier"


@pytest.mark.parametrize(
    "name", ["loss", "search equals calibration", NOISIER, "null search", "large interaction"]
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
    assert covered("null search")["search"].mean < 0.01


def test_intervals_are_narrow_enough_to_decide() -> None:
    """With six draws of every data set, a ratio of 2.9 is told from 1 in nearly every study."""
    found = [scenario(MASKS, draws=6).shares(seed, 199).total_ratio for seed in range(20)]
    assert np.mean([ratio.low > 1 for ratio in found]) >= 0.9


def test_without_the_widening_intervals_are_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """With symmetric errors instead of the chi-square of so few draws, the test of coverage fails."""
    monkeypatch.setattr(
        components, "widened", lambda observed, drawn: observed - (drawn - drawn.mean(axis=0))
    )
    found = coverage(SCENARIOS[NOISIER], STUDIES, 199)
    assert found["draw"].covered < LEAST


@pytest.mark.parametrize(("search", "expected"), [(-0.3, 1.0), (0.2, 1.0 / 1.2)])
def test_a_ratio_needs_a_calibration_to_be_above_one(search: float, expected: float) -> None:
    """The interaction must not make up for a negative component: with -0.1 + 1 above -0.3 + 1, it would be 1.29."""
    known = {"objective": -0.1, "algorithm": search, RESIDUAL: 1.0}
    estimate = np.array([[known.get(name, 0.0) for name in EVERY]])
    found = report(estimate, None, dict.fromkeys(EVERY, 3), 40, 6, "no interval")
    assert found.total_ratio.value == found.objective_ratio.value == pytest.approx(expected)


def test_the_noise_of_draws_is_not_taken_for_an_effect_of_the_objective() -> None:
    """The component is unbiased; with the draws' noise in it, its mean would be 0.5 / 6."""
    without = scenario(NULL_OBJECTIVE, shared=False)
    found = [without.shares(seed, 99).sources.set_index("source").loc["objective"] for seed in range(60)]
    values = [objective["component"] for objective in found]
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert 3 * error < 0.5 / 6 / 2, "the test can see the noise"
    assert np.mean([objective["low"] <= 1e-9 for objective in found]) >= LEAST


# -- resamples and plausible components --------------------------------------------------------------------------


def test_with_normal_draws_the_interval_of_a_mean_square_is_that_of_chi_square() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.chisquare(4, 200_000)[:, None]
    ends = np.quantile(widened(np.array([8.0]), drawn), [0.025, 0.975])
    assert ends == pytest.approx(8.0 * 4 / stats.chi2.ppf([0.975, 0.025], 4), rel=0.02)
    assert not widened(np.zeros(2), np.zeros((5, 2))).any(), "what explains nothing stays at nothing"


def test_resamples_of_one_data_set_have_the_observed_mean_square_on_average() -> None:
    rng = np.random.default_rng(1)
    cells = frame(objectives=1, data=1, draws=8, algos=3)
    y = effect(cells, ["draw"], 1.0, rng) + rng.normal(size=len(cells))
    design = Design(cells)
    (moved,) = design.draws.moves([of_values(y)])
    weights = components.bootstrap_weights(moved.columns, 4000, 0)
    for name in ("draw (seed)", RESIDUAL):
        added = design.strata[0].added[name]
        drawn = components.explained(weights, moved.added_form(added))
        assert drawn.mean() == pytest.approx(added.squares(moved.observed), rel=0.05), name


def test_draws_borrow_from_the_same_cell_of_other_draws() -> None:
    rng = np.random.default_rng(2)
    cells = frame(objectives=2, data=2, draws=4, algos=3)
    cells = cells[rng.random(len(cells)) > 0.2].reset_index(drop=True)
    found, cluster, panel = borrowed(cells), labels(cells, DRAW), labels(cells, PANEL)
    np.testing.assert_array_equal(panel[found.row], panel[found.donor])
    for row in range(len(cells)):
        mine, same = found.row == row, np.flatnonzero(panel == panel[row])
        assert set(found.donor[mine]) == set(same), "four draws are fewer than the partners of a draw"
        assert found.factor[mine] == pytest.approx(np.sqrt(1 / max(len(same) - 1, 1)))
    # One weight belongs to one pair of draws, in all cells.
    for column in np.unique(found.column):
        entries = found.column == column
        assert len(set(zip(cluster[found.row[entries]], cluster[found.donor[entries]], strict=True))) == 1


def test_many_draws_borrow_from_a_few_and_repeats_of_a_cell_from_repeats() -> None:
    found = borrowed(frame(objectives=1, data=2, draws=30, algos=2))
    assert (np.bincount(found.row) == 8).all()
    assert found.columns == 60 * 8
    cells = frame(objectives=1, data=1, draws=3, algos=2)
    found = borrowed(cells.loc[cells.index.repeat(2)].reset_index(drop=True))
    assert (np.bincount(found.row) == 3).all()
    assert (found.row % 2 == found.donor % 2).all(), "the first from the first, the second from the second"


# -- accuracies that are only noise ------------------------------------------------------------------------------


def noisy_shares(design: Design, of: dict[str, Any], seed: int, subtract: bool = True) -> Shares:
    y = 100 * np.mean([task.mean(axis=1) for task in of.values()], axis=0)
    parts = [of_values(y[stratum.rows]) for stratum in design.strata]
    return design.shares(parts, 199, seed, item_noise(of) if subtract else None)


def test_the_noise_has_the_covariance_of_the_mean_accuracies() -> None:
    rng = np.random.default_rng(0)
    two = rng.integers(0, 2, (2, 40)).astype(float)
    three = rng.integers(0, 2, (2, 30)).astype(float)
    noise = item_noise({"acc/a": two, "acc/b": three})
    expected = sum(np.cov(x) / x.shape[1] for x in (two, three)) / 4 * 1e4
    np.testing.assert_allclose(noise @ noise.T, expected)


def test_fewer_columns_have_about_the_same_covariance() -> None:
    noise = np.random.default_rng(1).normal(size=(5, 1000))
    few = compressed(noise, 0)
    assert few.shape == (5, 64)
    np.testing.assert_allclose((few @ few.T).diagonal(), (noise @ noise.T).diagonal(), rtol=0.5)
    np.testing.assert_array_equal(compressed(noise[:, :64], 0), noise[:, :64])


def test_with_answers_noise_alone_decides_nothing() -> None:
    cells = noisy_cells()
    design = Design(cells)
    every = [answers(cells, seed) for seed in range(40)]
    subtracted = [noisy_shares(design, of, seed) for seed, of in enumerate(every)]
    kept = [noisy_shares(design, of, seed, subtract=False) for seed, of in enumerate(every)]
    assert np.mean([s.total_ratio.leaves_out(1) for s in subtracted]) <= 0.05
    assert np.mean([s.total_ratio.leaves_out(1) for s in kept]) > 0.2, "this is what the subtraction is for"
    draw = [float(s.sources.set_index("source").loc["draw (seed)", "component"]) for s in subtracted]
    assert abs(np.mean(draw)) < 3 * np.std(draw, ddof=1) / np.sqrt(len(draw)), "unbiased"


def test_an_effect_is_still_found() -> None:
    cells = noisy_cells()
    objective = cells["objective"].map({"o0": -0.15, "o1": -0.05, "o2": 0.05, "o3": 0.15}).to_numpy()
    found = [noisy_shares(Design(cells), answers(cells, seed, objective), seed) for seed in range(5)]
    assert all(s.total_ratio.low > 1 for s in found)
    assert all(s.parts["calibration"].value > 0.6 for s in found)


def test_an_interval_leaves_out_what_it_does_not_contain() -> None:
    assert IntervalEstimate(2.0, 1.5, 3.0).leaves_out(1)
    assert not IntervalEstimate(2.0, 0.5, 3.0).leaves_out(1)
    assert not IntervalEstimate(2.0).leaves_out(1)
