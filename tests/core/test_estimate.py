from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pruning.core.scoring import Estimate, mean, plus_minus, standard_error, weighted_mean

TERMS = st.lists(st.floats(-50, 50), min_size=2, max_size=20)


@given(TERMS, st.integers(0, 99))
def test_the_mean_is_weighted_and_with_equal_weights_it_has_the_plain_error(
    terms: list[float], seed: int
) -> None:
    parts = (0,) * len(terms)
    weights = tuple(np.random.default_rng(seed).uniform(1, 9, len(terms)).tolist())
    assert Estimate(weights, parts).mean(terms) == pytest.approx(np.average(terms, weights=weights), abs=1e-9)
    estimate = Estimate((3.0,) * len(terms), parts)
    assert estimate.mean(terms) == pytest.approx(np.mean(terms), abs=1e-9)
    assert mean(terms) == pytest.approx(estimate.mean(terms), abs=1e-12)
    assert estimate.error(terms) == pytest.approx(np.std(terms, ddof=1) / math.sqrt(len(terms)), abs=1e-9)
    assert standard_error(terms) == pytest.approx(estimate.error(terms), abs=1e-12)


def test_the_mean_does_not_depend_on_the_order() -> None:
    terms = np.random.default_rng(0).standard_normal(100) * 10.0 ** np.arange(100).clip(0, 15)
    order = np.random.default_rng(1).permutation(100)
    assert weighted_mean(terms.tolist(), [1.0] * 100) == weighted_mean(terms[order].tolist(), [1.0] * 100)


def test_parts_have_their_shares_however_many_samples_they_have() -> None:
    estimate = Estimate((1.0, 3.0, 1.0, 1.0, 1.0), (0, 0, 1, 1, 1), (0.25, 0.75))
    terms = [1.0, 5.0, 10.0, 20.0, 30.0]
    assert estimate.count == 5
    assert estimate.mean(terms) == 0.25 * 4.0 + 0.75 * 20.0
    first, second = Estimate((1.0, 3.0), (0, 0)).error(terms[:2]), standard_error(terms[2:])
    assert estimate.error(terms) == pytest.approx(math.hypot(0.25 * first, 0.75 * second))


def test_fewer_terms_are_those_of_the_first_samples() -> None:
    estimate = Estimate((1.0, 3.0, 5.0), (0, 0, 0))
    assert (estimate.mean([2.0, 6.0]), estimate.error([2.0])) == (5.0, 0.0)
    assert math.isnan(Estimate((1.0, 1.0), (0, 0), (0.5, 0.5)).mean([1.0, 2.0])), "a part without samples"
    assert Estimate((1.0, 1.0), (0, 0), (1.0, 0.0)).mean([1.0, 2.0]) == 1.5, "a part without a share"


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_a_term_that_is_not_finite_makes_no_finite_mean(wrong: float) -> None:
    assert not math.isfinite(Estimate((1.0, 1.0), (0, 0)).mean([1.0, wrong]))
    apart = Estimate((1.0, 1.0, 1.0), (0, 0, 1), (0.5, 0.5))
    assert not math.isfinite(apart.mean([1.0, 2.0, wrong]))
    assert not math.isfinite(apart.mean([1.0, math.inf, wrong]))


def test_the_error_is_zero_if_all_samples_are_known() -> None:
    estimate = Estimate((1.0,) * 8, (0,) * 8)
    terms = [1.0, 2.0, 4.0, 8.0]
    assert estimate.error(terms, whole=8) == pytest.approx(estimate.error(terms) * math.sqrt(0.5))
    assert estimate.error([*terms, *terms], whole=8) == 0.0


def test_the_error_of_a_weighted_mean_covers() -> None:
    """About 95 percent of the 95 percent intervals contain the mean of infinitely many samples."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        weights = rng.integers(1, 10, 60).astype(float)
        terms = weights * 0.1 + rng.standard_normal(60)
        estimate = Estimate(tuple(weights), (0,) * 60)
        truth = 0.1 * (np.arange(1, 10) ** 2).mean() / np.arange(1, 10).mean()
        hits += abs(estimate.mean(terms.tolist()) - truth) < 2 * estimate.error(terms.tolist())
    assert 0.91 < hits / 400 < 0.985


def test_degrees_of_freedom_are_those_of_one_part_or_of_welch() -> None:
    assert Estimate((2.0, 3.0, 1.0), (0, 0, 0)).freedom([1.0, 2.0, 4.0]) == pytest.approx(2)
    a, b = [1.0, 4.0, 2.0], [10.0, 10.5, 9.0, 10.2, 10.1]
    apart = Estimate((1.0,) * 8, (0,) * 3 + (1,) * 5, (0.5, 0.5))
    assert apart.freedom([*a, *b]) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).df)


@pytest.mark.parametrize(
    ("parts", "shares", "terms", "freedom", "error"),
    [
        ((0,), (1.0,), [3.0], 0, None),
        ((0, 0), (1.0,), [3.0, 5.0], 1, 1.0),
        ((0, 1, 1), (0.5, 0.5), [1.0, 7.0, 8.0], 0, None),
        ((0, 1, 1), (0.0, 1.0), [1.0, 7.0, 8.0], 1, 0.5),
    ],
)
def test_the_error_of_a_part_of_one_sample_is_unknown(
    parts: tuple[int, ...], shares: tuple[float, ...], terms: list[float], freedom: int, error: float | None
) -> None:
    estimate = Estimate((1.0,) * len(parts), parts, shares)
    assert estimate.freedom(terms) == pytest.approx(freedom)
    assert estimate.stated_error(terms) == (None if error is None else pytest.approx(error))
    assert (plus_minus(None), plus_minus(0.5)) == ("± unknown", "± 0.5000")
