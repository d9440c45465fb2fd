"""Races, near ties and decisions by the rise of the loss per cost choose what whole float32 losses would choose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from pruning.algo import Ask, Rise
from pruning.algo.beam import Beam
from pruning.algo.greedy import Greedy
from pruning.core.mask import Mask
from pruning.core.scoring import Estimate, Score
from pruning.search.decide import Decider, FloatLoss, Racing, Settler, View
from pruning.search.journal import Journal, ScoreBook
from tests.helpers.searches import TermLosses, solved
from tests.helpers.spaces import sublayer_space

N, S = 8, 64
COSTS = (1, 3) * N
SPACE = sublayer_space(N, 0.3, None, COSTS)
ESTIMATE = Estimate((1.0,) * S, (0,) * S)


BASE = np.random.default_rng(0).normal(3.0, 1.0, S)


def rises(seed: int) -> np.ndarray:
    """How much each unit raises the loss; MLPs raise it more."""
    return np.random.default_rng(seed).uniform(0.05, 1.0, 2 * N) * COSTS


def noisy(seed: int) -> TermLosses:
    """Losses with terms that differ much between samples and little between masks."""

    def term(mask: Mask) -> np.ndarray:
        own = np.random.default_rng([1, *mask.dropped]).normal(0.0, 0.1, S)
        return np.asarray(BASE + rises(seed)[list(mask.dropped)].sum() + own)

    return TermLosses(term, S)


@pytest.mark.parametrize("algo", [Greedy(), Beam(2), Greedy(lazy=0.05)], ids=["greedy", "beam", "lazy"])
@pytest.mark.parametrize("seed", range(3))
def test_a_race_keeps_the_mask_and_scores_less(tmp_path: Path, algo: Greedy | Beam, seed: int) -> None:
    whole, raced = noisy(seed), noisy(seed)
    expected, _ = solved(tmp_path / "whole", whole, algo, SPACE)
    actual, _ = solved(tmp_path / "raced", raced, algo, SPACE, Racing(delta=0.01))
    assert actual.score.mask == expected.score.mask
    assert actual.score.loss == pytest.approx(expected.score.loss)
    assert raced.terms_paid < 0.8 * whole.terms_paid


def test_a_decision_compares_rises_and_not_losses(tmp_path: Path) -> None:
    solution, _ = solved(tmp_path, noisy(0), Greedy(), SPACE)
    single = rises(0) / COSTS
    first, second = np.argsort(single)[:2]
    decided = solution.margins["decisions"][0]
    named = [Mask(N, (int(u),), "sublayer").listed() for u in (first, second)]
    assert [decided["chosen"], decided["next"]["dropped"]] == named
    assert decided["next"]["difference"] == pytest.approx(single[second] - single[first], abs=0.1)


DENSE, A0, M0, A1 = (Mask(N, d, "sublayer") for d in ((), (0,), (1,), (2,)))
RISE = Rise(DENSE, {A0: 1.0, M0: 3.0, A1: 1.0})


def score(mask: Mask, loss: float, spread: float) -> Score:
    return Score(mask, loss, tuple(loss + spread * (-1) ** s for s in range(S)), 0.1)


def decider(half: Mapping[Mask, float], single: Mapping[Mask, float], spread: float) -> Decider:
    """A decider that knows masks in half precision; terms of masks are off by `spread`, with alternating signs."""
    journal = Journal(None, N, unit="sublayer")
    for mask, loss in half.items():
        journal.add(score(mask, loss, spread if mask.dropped else 0.0))
    exact = TermLosses(lambda mask: np.full(S, single[mask]), S)
    floats = FloatLoss(lambda: exact, Journal(None, N, unit="sublayer"))
    book = ScoreBook(noisy(0), journal, Journal(None, N, "sublayer"), lambda *_: None)
    return Decider(book, Racing(), Settler(8, floats, ESTIMATE))


def test_near_rises_per_cost_are_settled_in_float32() -> None:
    single = {DENSE: 2.0, A0: 2.1, M0: 2.303, A1: 2.5}  # rises per cost 0.1, 0.101, 0.5
    for loss, chosen in ((2.3, A0), (2.1, M0)):  # rises of M0: 0.1, which A0's 0.101 is near, and 0.033
        half, masks = {DENSE: 2.0, A0: 2.101, M0: loss, A1: 2.5}, [A0, M0, A1]
        exact = single if chosen == A0 else half
        losses = decider(half, exact, 0.02).answer(Ask(masks, best=1, rise=RISE))
        rates = {m: RISE.rate(m, loss, 2.0) for m, loss in zip(masks, losses, strict=True)}
        assert min(rates, key=rates.__getitem__) == chosen
        assert all(loss >= half[mask] for mask, loss in zip(masks, losses, strict=True))


def test_losses_have_the_order_of_the_settled_rises() -> None:
    view = View(ESTIMATE, RISE, score(DENSE, 2.0, 0.0))
    scores = [score(A0, 2.1, 0.0), score(M0, 2.3, 0.0), score(A1, 2.1, 0.0)]
    assert view.losses(scores, {s.mask: view.of(s).loss for s in scores}) == {A0: 2.1, M0: 2.3, A1: 2.1}
    for order in ((A0, M0, A1), (M0, A1, A0), (A1, A0, M0)):
        settled = {mask: 0.1 + 1e-12 * (place + 1) for place, mask in enumerate(order)}
        losses = view.losses(scores, settled)
        rates = [RISE.rate(mask, losses[mask], 2.0) for mask in order]
        assert rates == sorted(rates)
        assert len({*rates}) == 3
