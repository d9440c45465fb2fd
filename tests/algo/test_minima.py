"""Masks of least energy on a budget: enumeration equals a look at every mask, annealing finds the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pruning.algo import _quadratic
from pruning.algo._quadratic import (
    Array,
    annealed_minima,
    descended,
    energies,
    enumerated_minima,
    minima,
    proposed,
)
from pruning.algo.cbo import Cbo
from pruning.core.mask import Mask, Space
from tests.algo.test_budgets import losses, optimum
from tests.algo.test_contract import drive
from tests.helpers.spaces import sublayer_space

SPACE = sublayer_space(6, 0.4, None, (1, 3) * 6, first=1)
UNEQUAL = sublayer_space(6, 0.3, None, (2, 3, 1, 5, 2, 3, 1.5, 4, 2, 2.5, 3, 7))


def random_q(space: Space, seed: int) -> Array:
    n = len(space.fitting())
    q = np.random.default_rng(seed).standard_normal((n, n))
    return (q + q.T) / 2


def energy(q: Array, space: Space, mask: Mask) -> float:
    position = {u: r for r, u in enumerate(space.fitting())}
    chosen = [position[u] for u in mask.dropped]
    return float(q[np.ix_(chosen, chosen)].sum())


@pytest.mark.parametrize("space", [SPACE, UNEQUAL], ids=["uniform", "unequal"])
@pytest.mark.parametrize("chunk", [7, 8_192])
def test_enumeration_gives_the_least_energies_in_order(
    space: Space, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_quadratic, "MINIMA_CHUNK", chunk)
    q = random_q(space, 0)
    best, exact = minima(q, space, 10, 10**9, np.random.default_rng(0))
    assert exact
    assert best == sorted(space.masks(), key=lambda mask: energy(q, space, mask))[:10]


def test_equal_energies_are_in_lexicographic_order() -> None:
    q = np.zeros_like(random_q(SPACE, 0))
    assert enumerated_minima(q, SPACE, 5) == list(SPACE.masks())[:5]


@pytest.mark.parametrize("space", [SPACE, UNEQUAL], ids=["uniform", "unequal"])
@pytest.mark.parametrize("seed", range(4))
def test_annealing_finds_the_exact_optimum_if_that_is_known(space: Space, seed: int) -> None:
    q = random_q(space, seed)
    best, exact = minima(q, space, 5, 10, np.random.default_rng(seed))
    assert not exact
    assert best[0] == enumerated_minima(q, space, 1)[0]
    assert all(mask in space for mask in best)
    assert len({*best}) == 5
    found = [energy(q, space, mask) for mask in best]
    assert found == sorted(found)


def test_annealing_finds_an_optimum_that_is_planted_in_a_large_space() -> None:
    space = sublayer_space(24, 0.25, None, (1, 3) * 24)
    assert space.size > 10**9
    planted, n = space.filled((), [1, 0, 7, 8, 13, 20, 22, 30, 41, *range(48)]), space.n_units
    inside = np.isin(np.arange(n), planted.dropped)
    q = np.where(np.outer(inside, inside), -1.0, 1.0) + 0.01 * random_q(space, 1)
    assert minima((q + q.T) / 2, space, 3, 10**9, np.random.default_rng(0))[0][0] == planted


def test_proposals_meet_the_budget_and_change_numbers_of_units() -> None:
    assert SPACE.budget is not None
    rng, units = np.random.default_rng(0), SPACE.fitting()
    costs = np.array([SPACE.budget.costs[u] for u in units])
    masks = list(SPACE.masks())
    rows = np.array([[u in mask.dropped for u in units] for mask in masks])
    moved, valid = proposed(rows, costs, SPACE.budget, rng)
    for before, after, good in zip(rows, moved, valid, strict=True):
        assert (SPACE.drop(*(units[r] for r in np.flatnonzero(after))) in SPACE) == good
        assert not (before == after).all()
    assert valid.mean() > 0.3
    assert len(set((moved.sum(1) - rows.sum(1))[valid].tolist())) > 1


def test_chains_end_lower_than_they_start_and_descent_ends_in_local_minima() -> None:
    assert UNEQUAL.budget is not None
    q, rng, units = random_q(UNEQUAL, 3), np.random.default_rng(0), UNEQUAL.fitting()
    costs = np.array([UNEQUAL.budget.costs[u] for u in units])
    start = np.array([[u in mask.dropped for u in units] for mask in list(UNEQUAL.masks())[:30]])
    ends = annealed_minima(q, costs, UNEQUAL.budget, start, rng)
    assert energies(q, ends).mean() < energies(q, start).mean()
    for row in descended(q, costs, UNEQUAL.budget, start):
        mask = UNEQUAL.drop(*(units[r] for r in np.flatnonzero(row)))
        swaps = [
            UNEQUAL.drop(*({*mask.dropped} - {a}), b)
            for a in mask.dropped
            for b in UNEQUAL.free(mask.dropped)
        ]
        least = min((energy(q, UNEQUAL, swap) for swap in swaps if swap in UNEQUAL), default=np.inf)
        assert energy(q, UNEQUAL, mask) <= least + 1e-9


@pytest.mark.parametrize("offset", [-7.0, 30.0])
def test_cbo_takes_the_dense_loss_into_account_where_sets_differ_in_size(offset: float) -> None:
    for exact in (100_000_000, 0):
        for seed in range(3):
            loss = losses(12, seed, 3.0)
            run = drive(
                replace(Cbo(rescore=0), exact=exact), UNEQUAL, lambda mask, loss=loss: offset + loss(mask)
            )
            assert run.answer == optimum(UNEQUAL, loss)
            assert run.asked[0] == UNEQUAL.dense
