from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from pruning.algo._quadratic import CHAINS, _cool, annealed, enumerated, least
from pruning.algo.cbo import Cbo
from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space
from tests.algo.test_contract import drive, optimum, pairwise


def random_q(n: int, seed: int) -> np.ndarray:
    q = np.random.default_rng(seed).standard_normal((n, n))
    return (q + q.T) / 2


def by_enumeration(q: np.ndarray, k: int) -> list[tuple[int, ...]]:
    def energy(chosen: tuple[int, ...]) -> float:
        return float(q[np.ix_(chosen, chosen)].sum())

    return sorted(combinations(range(len(q)), k), key=energy)


@pytest.mark.parametrize("rescore", [0, 1, 16])
@pytest.mark.parametrize("seed", range(10))
def test_it_equals_enumeration_on_pairwise_losses(seed: int, rescore: int) -> None:
    space, loss = Space(12, 5, frozenset({3})), pairwise(12, seed, 3.0)
    assert drive(Cbo(rescore=rescore), space, loss).answer == optimum(space, loss)


@pytest.mark.parametrize("offset", [-7.0, 0.0, 30.0])
def test_the_loss_of_the_dense_model_does_not_matter(offset: float) -> None:
    space, loss = Space(10, 4), pairwise(10, 1, 3.0)
    run = drive(Cbo(rescore=0), space, lambda mask: offset + loss(mask))
    assert run.answer == optimum(space, loss)
    assert space.dense not in run.asked


def test_singles_and_pairs_are_one_batch_and_the_best_are_scored_after_them() -> None:
    space, loss = Space(10, 4), pairwise(10, 2)
    run = drive(Cbo(rescore=6), space, loss)
    assert [len(batch) for batch in run.batches] in ([55, 6], [55, 7])
    assert [len(mask.dropped) for mask in run.batches[0]] == [1] * 10 + [2] * 45
    assert list(run.batches[1][:6]) == [Mask(10, c) for c in sorted_masks(space, loss)[:6]]
    assert run.why == "the 6 least energies of all sets were scored"
    assert drive(Cbo(rescore=0), space, loss).why == "least energy of all sets, unscored"


def sorted_masks(space: Space, loss: object) -> list[tuple[int, ...]]:
    return sorted(combinations(space.free(), space.k), key=lambda c: loss(Mask(space.n_blocks, c)))  # type: ignore[operator]


def test_rescoring_finds_what_the_model_ranks_a_little_lower() -> None:
    space, plain = Space(10, 4), pairwise(10, 3, 3.0)
    third = Mask(10, sorted_masks(space, plain)[2])

    def loss(mask: Mask) -> float:  # pairs do not show that these four are cheap together
        return plain(mask) - 5.0 * (mask == third)

    assert drive(Cbo(rescore=2), space, loss).answer == optimum(space, plain)
    assert drive(Cbo(rescore=3), space, loss).answer == third


def test_no_pair_is_asked_for_if_one_block_is_removed() -> None:
    run = drive(Cbo(), Space(9, 1), pairwise(9, 0))
    assert len(run.asked) == 9 == Cbo().evaluations(Space(9, 1))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 5), (6, 1), (9, 4), (11, 8), (13, 5)])
def test_enumeration_gives_the_least_energies_in_order(n: int, k: int) -> None:
    for seed in range(3):
        q = random_q(n, seed)
        assert enumerated(q, k, 20) == by_enumeration(q, k)[:20]


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    q = random_q(12, 0)
    monkeypatch.setattr("pruning.algo._quadratic.CHUNK", 7)
    assert enumerated(q, 5, 30) == by_enumeration(q, 5)[:30]


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 5), (6, 1), (14, 6), (24, 7)])
def test_annealing_finds_the_exact_optimum_if_that_is_known(n: int, k: int) -> None:
    for seed in range(3):
        q = random_q(n, seed)
        best = annealed(q, k, 5, np.random.default_rng(seed))
        assert best[0] == enumerated(q, k, 1)[0]
        assert len(best) == min(5, math.comb(n, k))


def test_cooling_lowers_the_energy_of_every_chain() -> None:
    q, rng = random_q(40, 0), np.random.default_rng(0)
    orders = rng.permuted(np.tile(np.arange(40), (CHAINS, 1)), axis=1)
    inside, outside = orders[:, :10].copy(), orders[:, 10:].copy()
    _cool(q, inside, outside, rng)
    before, after = ([float(q[np.ix_(row, row)].sum()) for row in rows] for rows in (orders[:, :10], inside))
    assert max(after) < min(before)
    assert all(sorted((*a, *b)) == list(range(40)) for a, b in zip(inside, outside, strict=True))


def test_beyond_the_limit_it_anneals() -> None:
    q, rng = random_q(10, 1), np.random.default_rng(0)
    assert least(q, 4, 3, 210, rng)[1]
    assert not least(q, 4, 3, 209, rng)[1]
    space, loss = Space(10, 4), pairwise(10, 1, 3.0)
    run = drive(Cbo(exact=100), space, loss)
    assert run.answer == optimum(space, loss)
    assert run.why == "the 16 least energies that annealing found were scored"


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(InputError, match=r"algo.rescore=-1 is negative"):
        Cbo(rescore=-1)
    with pytest.raises(InputError, match=r"algo.exact=-1 is negative"):
        Cbo(exact=-1)
