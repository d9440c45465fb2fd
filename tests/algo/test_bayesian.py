"""The surrogate of the Bayesian search predicts losses, and its choices form diverse batches."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from pruning.algo.bayesian import Surrogate, indicators, promising
from pruning.core.mask import Mask, Space
from tests.helpers.searches import pairwise

SPACE = Space(12, 4)


def sets(count: int, seed: int = 0) -> list[Mask]:
    every = [SPACE.drop(*c) for c in combinations(range(12), 4)]
    return [every[i] for i in np.random.default_rng(seed).permutation(len(every))[:count]]


def test_the_surrogate_learns_pairs_that_single_losses_do_not_show() -> None:
    loss, masks = pairwise(12, 1, 2.0), sets(300)
    x, y = indicators(masks), np.array([loss(mask) for mask in masks])
    a = x @ np.array([loss(SPACE.drop(i)) for i in range(12)])
    model = Surrogate.fit(x[:200], a[:200], y[:200])
    mean, _ = model.posterior(x[200:], a[200:])
    assert np.corrcoef(mean, y[200:])[0, 1] > 0.99
    assert np.corrcoef(a[200:], y[200:])[0, 1] < 0.9
    assert model.pairs > 0


def test_the_surrogate_s_deviations_match_its_errors() -> None:
    loss, masks = pairwise(12, 2, 2.0), sets(300)
    x, y = indicators(masks), np.array([loss(mask) for mask in masks])
    noisy = y[:150] + 0.3 * y.std() * np.random.default_rng(0).standard_normal(150)
    mean, covariance = (model := Surrogate.fit(x[:150], np.zeros(150), noisy)).posterior(
        x[150:], np.zeros(150)
    )
    error = (mean - (y[150:] - noisy.mean()) / noisy.std()) / np.sqrt(np.diag(covariance))
    assert 0.5 < np.sqrt(np.mean(error**2)) < 1.5
    assert model.nugget > 1e-3


def test_the_losses_of_scored_sets_are_reproduced() -> None:
    masks = sets(40)
    x, y = indicators(masks), np.random.default_rng(0).standard_normal(40)
    model = Surrogate(x, x @ np.arange(12.0), y, pairs=0.5, nugget=1e-9)
    mean, covariance = model.posterior(x, x @ np.arange(12.0))
    assert mean == pytest.approx((y - y.mean()) / y.std(), abs=1e-3)
    assert np.diag(covariance) == pytest.approx(0, abs=1e-3)


def test_a_batch_is_diverse() -> None:
    mean = np.array([0.0, 0.0, 0.1, 5.0])
    alike = np.array([[1.0, 0.999, 0, 0], [0.999, 1.0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert promising(mean, alike, 1e-6, 2, kappa=1.0) == [0, 2]
    assert promising(mean, alike, 1e-6, 2, kappa=0.0) == [0, 1]
    assert sorted(promising(mean, alike, 1e-6, 9, kappa=1.0)) == [0, 1, 2, 3]
