"""Errors of candidates moderate each other as in Smyth (2004)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pruning.search.moderated_errors import FEWEST, moderated


def observed(true: np.ndarray, freedom: int, seed: int = 0) -> list[float]:
    """Standard errors as they are observed around true ones with this many degrees of freedom."""
    rng = np.random.default_rng(seed)
    return (true * np.sqrt(rng.chisquare(freedom, len(true)) / freedom)).tolist()


def test_a_known_prior_is_found_again() -> None:
    """True variances from a scaled inverse chi-squared distribution with d0 = 6 around s0^2 = 4."""
    rng = np.random.default_rng(1)
    true = np.sqrt(4.0 * 6 / rng.chisquare(6, 20_000))
    errors = observed(true, 7)
    after = moderated(errors, [7.0] * len(errors))
    assert after[0][1] == pytest.approx(7 + 6, rel=0.1)
    for error, (new, _) in zip(errors[:50], after, strict=False):
        assert new**2 == pytest.approx((6 * 4 + 7 * error**2) / 13, rel=0.1)


def test_moderated_errors_are_nearer_to_the_true_ones() -> None:
    true = np.exp(np.random.default_rng(2).normal(0, 0.2, 29))
    errors = observed(true, 7)
    moved = [error for error, _ in moderated(errors, [7.0] * 29)]
    assert np.abs(np.log(moved / true)).mean() < 0.7 * np.abs(np.log(errors / true)).mean()


def test_variances_that_differ_less_than_by_chance_are_taken_as_equal() -> None:
    after = moderated([1.0, 1.01, 0.99, 1.0, 1.02], [7.0] * 5)
    assert len(set(after)) == 1
    assert after[0][1] == math.inf


def test_different_degrees_of_freedom_count() -> None:
    errors, freedoms = [0.2, 0.5, 1.0, 2.0, 5.0, 9.0], [3.0, 30.0, 3.0, 30.0, 3.0, 30.0]
    gained = {free - old for (_, free), old in zip(moderated(errors, freedoms), freedoms, strict=True)}
    assert len({round(gain, 9) for gain in gained}) == 1, "each candidate gains d0"


@pytest.mark.parametrize("odd", [(0.0, 7.0), (math.inf, 7.0), (1.0, 0.0), (math.nan, 7.0)])
def test_errors_that_say_nothing_stay_and_do_not_count(odd: tuple[float, float]) -> None:
    errors, freedoms = [1.0, 2.0, 0.5, 1.5, 0.7], [7.0] * 5
    after = moderated([*errors, odd[0]], [*freedoms, odd[1]])
    assert after[:-1] == moderated(errors, freedoms)
    assert repr(after[-1]) == repr(odd)


def test_few_candidates_keep_their_errors() -> None:
    errors = [1.0, 2.0, 3.0, 4.0][: FEWEST - 1]
    assert moderated(errors, [7.0] * 4) == [(error, 7.0) for error in errors]
