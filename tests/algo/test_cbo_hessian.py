from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from pruning.algo import Ask, Gates
from pruning.algo.cbo_hessian import CboHessian
from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space

SPACE = Space(9, 4, frozenset({0, 7}))


def gradients(seed: int) -> np.ndarray:
    """Gradients of 6 samples with respect to the gates of 9 blocks; those of protected blocks must not matter."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((6, 9)) + rng.standard_normal(9) / 2


def solved(
    algo: CboHessian, a: np.ndarray, loss: Callable[[Mask], float] | None = None
) -> tuple[Mask, list[Mask]]:
    search = algo.propose(SPACE, np.random.default_rng(0))
    assert isinstance(next(search), Gates)
    asked: list[Mask] = []
    try:
        request = search.send(a)
        assert isinstance(request, Ask)
        assert request.best == 1
        assert loss is not None
        asked = list(request.masks)
        search.send([loss(mask) for mask in asked])
    except StopIteration as end:
        return end.value.mask, asked
    raise AssertionError("asked for more")


def energy(a: np.ndarray, chosen: tuple[int, ...], linear: bool) -> float:
    """The mean over samples of the expansion with d = -x: g^T d + 1/2 (A_s d)^2, or without the linear term."""
    d = np.zeros(9)
    d[list(chosen)] = -1
    return float(np.mean(a @ d * linear + (a @ d) ** 2 / 2))


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_the_least_of_the_expansion_is_found(seed: int, linear: bool) -> None:
    a = gradients(seed)
    best = min(combinations(SPACE.free(), 4), key=lambda c: energy(a, c, linear))
    answer, asked = solved(CboHessian(linear=linear, rescore=0), a)
    assert answer.dropped == best
    assert asked == []


def test_the_linear_term_matters() -> None:
    answers = [
        [solved(CboHessian(linear=x, rescore=0), gradients(s))[0] for x in (True, False)] for s in range(8)
    ]
    assert any(a != b for a, b in answers)


@pytest.mark.parametrize("rescore", [1, 5, 35, 500])
def test_the_least_energies_are_scored_and_the_best_of_them_is_taken(rescore: int) -> None:
    a = gradients(1)
    ranked = sorted(combinations(SPACE.free(), 4), key=lambda c: energy(a, c, False))
    answer, asked = solved(CboHessian(rescore=rescore), a, loss=lambda mask: -rank(mask, ranked))
    assert [mask.dropped for mask in asked] == ranked[:rescore]
    assert answer == asked[-1]


def rank(mask: Mask, ranked: list[tuple[int, ...]]) -> float:
    return ranked.index(mask.dropped)


def test_the_cost_is_counted_as_if_there_were_no_gradient() -> None:
    assert CboHessian(rescore=5).evaluations(SPACE) == 7 + 1 + 5
    assert CboHessian(rescore=500).evaluations(SPACE) == 7 + 1 + 35


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(InputError, match=r"algo.rescore=-1 is negative"):
        CboHessian(rescore=-1)
