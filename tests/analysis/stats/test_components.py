"""Shares of variance: published and textbook values, least squares, plain forms, and the noise of items.

Whether intervals cover the truth is tested in `test_coverage.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats import components
from analysis.stats.components import (
    DRAWN,
    EVERY,
    PANEL,
    RESIDUAL,
    SOURCES,
    Design,
    Shares,
    Stratum,
    of_values,
)
from analysis.stats.grid import DRAW, labels, masks
from tests.helpers.analysis_grid import effect, frame, with_masks
from tests.helpers.known_shares import NULL_OBJECTIVE, scenario
from tests.helpers.noisy_answers import answers, noisy_cells

# -- sums of squares: against published values and least squares

TIES = [[0, 1, 1, 4], [1, 0, 3, 2], [1, 3, 0, 3], [4, 2, 3, 0]]
NO_TIES = [[0, 1, 5, 4], [1, 0, 3, 2], [5, 3, 0, 3], [4, 2, 3, 0]]


@pytest.mark.parametrize(
    ("distances", "groups", "published"),
    [(TIES, "aabb", 2.0), (NO_TIES, "aabb", 4.4)],
)
def test_pseudo_f_of_permanova_as_scikit_bio_and_vegan_have_it(
    distances: list[list[float]], groups: str, published: float
) -> None:
    of = components.of_distances(distances)
    mean = components.spanned([np.zeros(len(groups), dtype=np.int64)])
    q = components.spanned([np.unique(list(groups), return_inverse=True)[1]], mean)
    ss, df = of.squares(q.T @ of.x), q.shape[1]
    assert ss / df / ((of.total - ss) / (len(groups) - 1 - df)) == pytest.approx(published, abs=1e-6)


def unbalanced(seed: int = 0) -> tuple[pd.DataFrame, Any]:
    """A grid with a fifth of its cells missing, with all kinds of effects."""
    rng = np.random.default_rng(seed)
    cells = frame(objectives=2, data=2, draws=4, algos=4)
    cells = with_masks(cells, np.arange(30) + rng.normal(0, 4, (len(cells), 30)))
    cells = cells[rng.random(len(cells)) > 0.2].reset_index(drop=True)
    effects = (["objective"], ["algo"], ["objective", "algo"], ["objective", "calibration"])
    return cells, sum(effect(cells, c, 1.0, rng) for c in effects) + rng.normal(size=len(cells))


def stratum_of(cells: pd.DataFrame) -> Stratum:
    (stratum,) = Design(cells).strata
    return stratum


def test_each_source_explains_what_least_squares_say_beyond_those_that_do_not_contain_it() -> None:
    cells, y = unbalanced(1)

    def rest(groups: list[tuple[str, ...]]) -> float:
        columns = [np.ones((len(cells), 1))]
        columns += [pd.get_dummies(labels(cells, group)).to_numpy(float) for group in groups]
        x = np.hstack(columns)
        return float(((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2).sum())

    stratum = stratum_of(cells)
    for name, found in zip(stratum.names, stratum.squares(of_values(y)), strict=True):
        if name == RESIDUAL:
            assert found == pytest.approx(rest([*SOURCES.values()]))
        else:
            others = [of for of in SOURCES.values() if not set(SOURCES[name]) <= set(of)]
            assert found == pytest.approx(rest(others) - rest([*others, SOURCES[name]])), name
    for q in components.adjusted(
        {name: labels(cells, columns) for name, columns in SOURCES.items()}
    ).values():
        np.testing.assert_allclose(q.T @ q, np.eye(q.shape[1]), atol=1e-10)


def test_coordinates_of_masks_have_the_centred_inner_products_of_their_distances() -> None:
    cells, _ = unbalanced()
    every = masks(cells)
    squared = np.array([[1.0 - a.jaccard(b) for b in every] for a in every]) ** 2
    centre = np.eye(len(cells)) - 1 / len(cells)
    (of,) = components.coordinates(cells, None)
    np.testing.assert_allclose((of.x * of.signs) @ of.x.T, -0.5 * centre @ squared @ centre, atol=1e-11)
    assert (of.signs < 0).any(), "Jaccard distances are not Euclidean"


# -- components and their ratios


def component(cells: pd.DataFrame, y: Any) -> Any:
    return Design(cells).shares([of_values(y)], resamples=20).sources.set_index("source")["component"]


def test_variance_components_of_a_balanced_grid_are_the_textbook_ones() -> None:
    rng = np.random.default_rng(0)
    cells = frame(objectives=1, data=1, draws=6, algos=5)
    y = effect(cells, ["draw"], 1, rng) + effect(cells, ["algo"], 1, rng) + rng.normal(size=30)
    table = y.reshape(6, 5)
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    error = np.sum(rest**2) / 20
    by_source = component(cells, y)
    assert by_source["algorithm"] == pytest.approx(np.var(table.mean(0), ddof=1) - error / 6)
    assert by_source[DRAWN] == pytest.approx(np.var(table.mean(1), ddof=1) - error / 5)
    assert by_source[RESIDUAL] == pytest.approx(error)


def test_components_are_unbiased_where_cells_are_missing() -> None:
    values = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        cells = frame(objectives=1, data=2, draws=4, algos=4)
        cells = cells[rng.random(len(cells)) > 0.25].reset_index(drop=True)
        y = effect(cells, ["draw", "calibration"], 2.0, rng) + effect(cells, ["algo"], 1.0, rng)
        table = component(cells, y + rng.normal(size=len(cells)))
        values.append([table[DRAWN], table["algorithm"], table[RESIDUAL]])
    means, errors = np.mean(values, axis=0), np.std(values, axis=0) / np.sqrt(len(values))
    np.testing.assert_array_less(np.abs(means - [4.0, 1.0, 1.0]), 3 * errors)


def test_the_noise_of_draws_is_not_taken_for_an_effect_of_the_objective() -> None:
    """The component is unbiased; with the draws' noise in it, its mean would be 0.5 / 6."""
    without = scenario(NULL_OBJECTIVE, shared=False)
    found = [without.shares(seed, 99).sources.set_index("source").loc["objective"] for seed in range(60)]
    values = [objective["component"] for objective in found]
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert 3 * error < 0.5 / 6 / 2, "the test can see the noise"
    assert np.mean([objective["low"] <= 1e-9 for objective in found]) >= 0.92


def two_models(seed: int, noise: float) -> tuple[pd.DataFrame, Any]:
    rng = np.random.default_rng(seed)
    cells = frame(models=("a", "b"), draws=4)
    y = effect(cells, ["objective"], 2.0, rng) + effect(cells, ["calibration", "draw"], 0.5, rng)
    return cells, y + noise * rng.normal(size=len(cells))


def shares_of(cells: pd.DataFrame, y: Any) -> Shares:
    return Design(cells).shares(components.coordinates(cells, y), resamples=200)


def test_no_ratio_is_infinite_and_shares_are_cut_off_at_0_and_1() -> None:
    rng = np.random.default_rng(0)
    cells = frame(models=("a", "b"))
    y = effect(cells, ["objective"], 1.0, rng)
    found = [shares_of(cells, y + 0.01 * rng.normal(size=len(cells))) for _ in range(6)]
    assert any(math.isinf(s.total_ratio.high) or s.total_ratio.high > 100 for s in found)
    for s in found:
        for ratio in (s.total_ratio, s.objective_ratio):
            assert not math.isinf(ratio.value)
            assert not math.isinf(ratio.low)
        for part in s.parts.values():
            assert 0 <= part.low <= part.value <= part.high <= 1


def test_shares_do_not_depend_on_the_units_of_a_stratum() -> None:
    cells, y = two_models(2, 1.0)
    other = np.where(cells["model"] == "a", 1000.0 * y, y)
    first, second = (shares_of(cells, v) for v in (y, other))
    for name, part in first.parts.items():
        found = second.parts[name]
        assert (found.value, found.high) == pytest.approx((part.value, part.high))


def test_objective_against_search_has_the_interval_that_leaves_out_one_draw() -> None:
    """By hand: the study and the study without each draw, estimated anew."""
    cells, y = two_models(3, 0.3)
    found = shares_of(cells, y)

    def logarithm(kept: Any) -> float:
        part = cells[kept].reset_index(drop=True)
        design = Design(part)
        solved = [
            s.components(c) for s, c in zip(design.strata, components.coordinates(part, y[kept]), strict=True)
        ]
        share = dict(zip(EVERY, components.shares_of(np.array(solved)), strict=True))
        interaction = share["objective x algorithm"] + share[RESIDUAL]
        return math.log((share["objective"] + interaction) / (max(0.0, share["algorithm"]) + interaction))

    draw, data = labels(cells, DRAW), labels(cells, ["calibration"])
    variance = 0.0
    for of in np.unique(data):
        left = np.array([logarithm(draw != d) for d in np.unique(draw[data == of])])
        variance += (len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum()
    value = logarithm(np.full(len(cells), True))
    half = stats.t.ppf(0.975, 3) * math.sqrt(variance)  # each data set has four draws
    ratio = found.objective_ratio
    expected = (math.exp(value), math.exp(value - half), math.exp(value + half))
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx(expected)
    one = (cells["objective"] == "o0").to_numpy()
    alone = shares_of(cells[one].reset_index(drop=True), y[one])
    assert math.isnan(alone.objective_ratio.value), "one objective has nothing to be compared with"
    items = cells.assign(calibration=cells["calibration"].where(cells["objective"] != "o0", "items"))
    assert (found.objective, shares_of(items, y).objective) == ("objective", "objective and data")


@pytest.mark.parametrize(("search", "expected"), [(-0.3, 1.0), (0.2, 1.0 / 1.2)])
def test_a_ratio_needs_a_calibration_to_be_above_one(search: float, expected: float) -> None:
    """The interaction must not make up for a negative component: with -0.1 + 1 above -0.3 + 1, it would be 1.29."""
    known = {"objective": -0.1, "algorithm": search, RESIDUAL: 1.0}
    estimate = np.array([[known.get(name, 0.0) for name in EVERY]])
    found = components.report(estimate, None, dict.fromkeys(EVERY, 3), "no interval")
    assert found.total_ratio.value == found.objective_ratio.value == pytest.approx(expected)


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


def test_draws_of_several_sizes_have_no_interval() -> None:
    cells = pd.concat([frame(draws=6).assign(samples=size) for size in (8, 32)], ignore_index=True)
    assert "--only samples=N" in shares_of(cells, np.random.default_rng(0).normal(size=len(cells))).note


# -- resamples and plausible components


def test_with_normal_draws_the_interval_of_a_mean_square_is_that_of_chi_square() -> None:
    drawn = np.random.default_rng(0).chisquare(4, 200_000)[:, None]
    ends = np.quantile(components.widened(np.array([8.0]), drawn), [0.025, 0.975])
    assert ends == pytest.approx(8.0 * 4 / stats.chi2.ppf([0.975, 0.025], 4), rel=0.02)
    assert not components.widened(np.zeros(2), np.zeros((5, 2))).any(), (
        "what explains nothing stays at nothing"
    )


@pytest.mark.parametrize("numbers", [True, False])
def test_a_form_gives_the_sums_of_squares_of_each_resample(numbers: bool) -> None:
    """A resample by hand: for each cell its mean over draws, and weighted deviations of its donors."""
    cells, y = unbalanced(2)
    (of,) = components.coordinates(cells, y if numbers else None)
    donors, stratum = components.borrowed(cells), stratum_of(cells)
    moves = components.resampled_moves(cells, stratum.rows, of, donors)
    weights = np.random.default_rng(0).normal(size=(3, donors.columns))
    means = pd.DataFrame(of.x).groupby(labels(cells, PANEL)).transform("mean").to_numpy()
    for weight in weights:
        x = means.copy()
        for row, donor, column, factor in zip(
            donors.row, donors.donor, donors.column, donors.factor, strict=True
        ):
            x[row] += weight[column] * factor * (of.x - means)[donor]
        with_one = np.append(weight, 1.0)
        for name in stratum.names:
            form = components.added_form(stratum.bases[name], moves, of.signs)
            expected = of.squares(stratum.bases[name].T @ x)
            assert with_one @ form @ with_one == pytest.approx(expected, rel=1e-9, abs=1e-9), name


def test_draws_borrow_from_the_same_cell_of_other_draws() -> None:
    rng = np.random.default_rng(2)
    cells = frame(objectives=2, data=2, draws=4, algos=3)
    cells = cells[rng.random(len(cells)) > 0.2].reset_index(drop=True)
    found, cluster, panel = components.borrowed(cells), labels(cells, DRAW), labels(cells, PANEL)
    np.testing.assert_array_equal(panel[found.row], panel[found.donor])
    for row in range(len(cells)):
        mine, same = found.row == row, np.flatnonzero(panel == panel[row])
        assert set(found.donor[mine]) == set(same), "four draws are fewer than the partners of a draw"
        assert found.factor[mine] == pytest.approx(np.sqrt(1 / max(len(same) - 1, 1)))
    # One weight belongs to one pair of draws, in all cells.
    for column in np.unique(found.column):
        entries = found.column == column
        assert len(set(zip(cluster[found.row[entries]], cluster[found.donor[entries]], strict=True))) == 1
    assert (np.bincount(components.borrowed(frame(objectives=1, data=2, draws=30, algos=2)).row) == 8).all()
    twice = frame(objectives=1, data=1, draws=3, algos=2)
    found = components.borrowed(twice.loc[twice.index.repeat(2)].reset_index(drop=True))
    assert (np.bincount(found.row) == 3).all()
    assert (found.row % 2 == found.donor % 2).all(), "of repeats, the first borrows from the first"


# -- accuracies that are only noise


def noisy_shares(design: Design, of: dict[str, Any], seed: int, subtract: bool = True) -> Shares:
    y = 100 * np.mean([task.mean(axis=1) for task in of.values()], axis=0)
    parts = [of_values(y[stratum.rows]) for stratum in design.strata]
    return design.shares(parts, 199, seed, components.item_noise(of) if subtract else None)


def test_the_noise_has_the_covariance_of_the_mean_accuracies() -> None:
    rng = np.random.default_rng(0)
    two = rng.integers(0, 2, (2, 40)).astype(float)
    three = rng.integers(0, 2, (2, 30)).astype(float)
    noise = components.item_noise({"acc/a": two, "acc/b": three})
    expected = sum(np.cov(x) / x.shape[1] for x in (two, three)) / 4 * 1e4
    np.testing.assert_allclose(noise @ noise.T, expected)


def test_with_answers_noise_alone_decides_nothing_and_an_effect_is_still_found() -> None:
    cells = noisy_cells()
    design = Design(cells)

    def decided(found: list[Shares]) -> float:
        return float(np.mean([s.total_ratio.low > 1 or s.total_ratio.high < 1 for s in found]))

    every = [answers(cells, seed) for seed in range(40)]
    subtracted = [noisy_shares(design, of, seed) for seed, of in enumerate(every)]
    kept = [noisy_shares(design, of, seed, subtract=False) for seed, of in enumerate(every)]
    assert decided(subtracted) <= 0.05
    assert decided(kept) > 0.2, "this is why accuracies without answers have no shares"
    draw = [float(s.sources.set_index("source").loc[DRAWN, "component"]) for s in subtracted]
    assert abs(np.mean(draw)) < 3 * np.std(draw, ddof=1) / np.sqrt(len(draw)), "unbiased"
    objective = cells["objective"].map({"o0": -0.15, "o1": -0.05, "o2": 0.05, "o3": 0.15}).to_numpy()
    real = [noisy_shares(design, answers(cells, seed, objective), seed) for seed in range(5)]
    assert all(s.total_ratio.low > 1 for s in real)
    assert all(s.parts["calibration"].value > 0.6 for s in real)
