"""Masks of least energy: enumeration equals a look at every mask, annealing finds the same."""

from __future__ import annotations

import numpy as np
import pytest

from pruning.algo import _quadratic
from pruning.algo._quadratic import Array, minima
from pruning.core.mask import Mask, Space
from tests.helpers.spaces import sublayer_space

UNEQUAL = sublayer_space(6, 0.3, None, (2, 3, 1, 5, 2, 3, 1.5, 4, 2, 2.5, 3, 7))
SPACES = {
    "uniform": sublayer_space(6, 0.4, None, (1, 3) * 6, first=1),
    "unequal": UNEQUAL,
    "one of two": Space(2, 1),
    "all but one": Space(6, 5),
    "few": Space(9, 4),
    "many": Space(11, 8),
    "protected": Space(13, 5, frozenset({0, 7})),
    "half": Space(14, 6),
}


@pytest.fixture(params=list(SPACES.values()), ids=list(SPACES))
def space(request: pytest.FixtureRequest) -> Space:
    found: Space = request.param
    return found


def random_q(n: int, seed: int) -> Array:
    q = np.random.default_rng(seed).standard_normal((n, n))
    return (q + q.T) / 2


def energy(q: Array, space: Space, mask: Mask) -> float:
    chosen = [space.fitting().index(unit) for unit in mask.dropped]
    return float(q[np.ix_(chosen, chosen)].sum())


@pytest.mark.parametrize("chunk", [7, 8_192])
def test_enumeration_gives_the_least_energies_in_order(
    space: Space, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_quadratic, "CHUNK", chunk)
    monkeypatch.setattr(_quadratic, "BUDGET_CHUNK", chunk)
    for seed in range(3):
        q = random_q(len(space.fitting()), seed)
        best, how = minima(q, space, 20, np.random.default_rng(0))
        assert how == "of all sets"
        assert best == sorted(space.masks(), key=lambda mask: energy(q, space, mask))[:20]


@pytest.mark.parametrize("name", ["uniform", "unequal"])
def test_on_a_budget_equal_energies_are_in_lexicographic_order(name: str) -> None:
    space = SPACES[name]
    q = np.zeros_like(random_q(len(space.fitting()), 0))
    assert minima(q, space, 5, np.random.default_rng(0))[0] == list(space.masks())[:5]


def test_annealing_finds_the_exact_optimum_if_that_is_known(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_quadratic, "EXACT", 1)
    monkeypatch.setattr(_quadratic, "EXACT_ON_BUDGET", 1)
    for seed in range(3):
        q = random_q(len(space.fitting()), seed)
        best, how = minima(q, space, 5, np.random.default_rng(seed))
        assert how == "that annealing found"
        assert best[0] == min(space.masks(), key=lambda mask: energy(q, space, mask))
        assert all(mask in space for mask in best)
        assert len({*best}) == min(5, space.size)
        found = [energy(q, space, mask) for mask in best]
        assert found == sorted(found)


def test_annealing_finds_an_optimum_that_is_planted_in_a_large_space() -> None:
    space = sublayer_space(24, 0.25, None, (1, 3) * 24)
    assert space.size > 10**9
    planted, n = space.filled((), [1, 0, 7, 8, 13, 20, 22, 30, 41, *range(48)]), space.n_units
    inside = np.isin(np.arange(n), planted.dropped)
    q = np.where(np.outer(inside, inside), -1.0, 1.0) + 0.01 * random_q(n, 1)
    assert minima((q + q.T) / 2, space, 3, np.random.default_rng(0))[0][0] == planted
