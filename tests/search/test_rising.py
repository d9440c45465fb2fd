"""Races, near ties and decisions by the rise of the loss per cost choose what whole float32 losses would choose."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from pruning.algo import Ask, Rise
from pruning.algo.beam import Beam
from pruning.algo.greedy import Greedy
from pruning.core.mask import Mask
from pruning.core.scoring import Estimate, Score
from pruning.objective import Loss
from pruning.search.choice import Choice, FloatLoss, NearTies, Racing, Rising, Settler
from pruning.search.driver import Problem, Solution, solve
from pruning.search.journal import Journal, KnownScores, ScoreBook, Store
from tests.helpers.spaces import sublayer_space

N, S = 8, 64
COSTS = (1, 3) * N
SPACE = sublayer_space(N, 0.3, None, COSTS)
ESTIMATE = Estimate((1.0,) * S, (0,) * S)


class Noisy:
    """Losses with terms that differ much between samples and little between masks; MLPs raise them more."""

    def __init__(self, seed: int) -> None:
        numbers = random.Random(seed)
        self.base = [numbers.gauss(3.0, 1.0) for _ in range(S)]
        self.rise = [numbers.uniform(0.05, 1.0) * cost for cost in COSTS]
        self.paid = 0

    @property
    def whole(self) -> Loss:
        return self.part(0, S)

    def part(self, start: int, stop: int) -> Loss:
        def terms(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
            for mask in masks:
                self.paid += stop - start
                yield mask, [self.term(mask, s) for s in range(start, stop)], 0.1

        return Loss(Estimate((1.0,) * (stop - start), (0,) * (stop - start)), terms)

    def term(self, mask: Mask, sample: int) -> float:
        own = random.Random(f"{mask.dropped} {sample}").gauss(0.0, 0.1)
        return self.base[sample] + sum(self.rise[unit] for unit in mask.dropped) + own


def solved(folder: Path, losses: Noisy, algo: Greedy | Beam, racing: Racing) -> Solution:
    journal = Journal.open(folder / f"{len(list(folder.iterdir()))}.jsonl", N, unit="sublayer")
    store = Store(folder, "key", "cell", N, share=False, unit="sublayer")
    return solve(Problem(algo, SPACE, 0, racing), losses, KnownScores(journal, store), lambda *_: None)


@pytest.mark.parametrize("algo", [Greedy(), Beam(2), Greedy(lazy=0.05)], ids=["greedy", "beam", "lazy"])
@pytest.mark.parametrize("seed", range(3))
def test_a_race_keeps_the_mask_and_scores_less(tmp_path: Path, algo: Greedy | Beam, seed: int) -> None:
    whole, raced = Noisy(seed), Noisy(seed)
    expected = solved(tmp_path, whole, algo, Racing())
    actual = solved(tmp_path, raced, algo, Racing(delta=0.01))
    assert actual.score.mask == expected.score.mask
    assert actual.score.loss == pytest.approx(expected.score.loss)
    assert raced.paid < 0.8 * whole.paid


def test_a_decision_compares_rises_and_not_losses(tmp_path: Path) -> None:
    solution = solved(tmp_path, Noisy(0), Greedy(), Racing())
    single = {unit: rise / cost for unit, (rise, cost) in enumerate(zip(Noisy(0).rise, COSTS, strict=True))}
    order = sorted(single, key=single.__getitem__)
    first = solution.margins["decisions"][0]
    assert [first["chosen"], first["next"]["dropped"]] == [
        Mask(N, (u,), "sublayer").listed() for u in order[:2]
    ]
    assert first["next"]["difference"] == pytest.approx(single[order[1]] - single[order[0]], abs=0.1)


DENSE, A0, M0, A1 = (Mask(N, d, "sublayer") for d in ((), (0,), (1,), (2,)))
RISE = Rise(DENSE, {A0: 1.0, M0: 3.0, A1: 1.0})


def score(mask: Mask, loss: float, spread: float) -> Score:
    return Score(mask, loss, tuple(loss + spread * (-1) ** s for s in range(S)), 0.1)


def choice(half: Mapping[Mask, float], single: Mapping[Mask, float], spread: float) -> Choice:
    """A choice that knows masks in half precision; terms of masks are off by `spread`, with alternating signs."""
    journal = Journal(None, N, unit="sublayer")
    for mask, loss in half.items():
        journal.add(score(mask, loss, spread if mask.dropped else 0.0))

    def terms(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
        yield from ((mask, [single[mask]] * S, 0.1) for mask in masks)

    floats = FloatLoss(lambda: Loss(ESTIMATE, terms), Journal(None, N, unit="sublayer"))
    known = KnownScores(journal, Store(Path("none"), "key", "cell", N, share=False, unit="sublayer"))
    settler = Settler(NearTies(), floats, ESTIMATE)
    return Choice(ScoreBook(Noisy(0), known, lambda *_: None), Racing(), settler)


def test_near_rises_per_cost_are_settled_in_float32() -> None:
    half = {DENSE: 2.0, A0: 2.101, M0: 2.3, A1: 2.5}  # rises per cost 0.101, 0.1, 0.5
    single = {DENSE: 2.0, A0: 2.1, M0: 2.303, A1: 2.5}  # 0.1, 0.101
    for spread, chosen in ((0.02, A0), (1e-7, M0)):  # rounding that can swap them, and rounding that cannot
        masks = [A0, M0, A1]
        losses = choice(half, single, spread).answer(Ask(masks, best=1, rise=RISE))
        rates = {m: RISE.rate(m, loss, 2.0) for m, loss in zip(masks, losses, strict=True)}
        assert min(rates, key=rates.__getitem__) == chosen
        assert all(loss >= half[mask] for mask, loss in zip(masks, losses, strict=True))


def test_losses_have_the_order_of_the_settled_rises() -> None:
    rising = Rising(RISE, score(DENSE, 2.0, 0.0), ESTIMATE)
    scores = [score(A0, 2.1, 0.0), score(M0, 2.3, 0.0), score(A1, 2.1, 0.0)]
    assert rising.losses(scores, {s.mask: rising.view(s).loss for s in scores}) == {A0: 2.1, M0: 2.3, A1: 2.1}
    for order in ((A0, M0, A1), (M0, A1, A0), (A1, A0, M0)):
        settled = {mask: 0.1 + 1e-12 * (place + 1) for place, mask in enumerate(order)}
        losses = rising.losses(scores, settled)
        rates = [RISE.rate(mask, losses[mask], 2.0) for mask in order]
        assert rates == sorted(rates)
        assert len({*rates}) == 3


def test_a_partial_score_rises_since_the_same_samples_of_the_base() -> None:
    base = Score(DENSE, 2.0, tuple(float(s % 5) for s in range(S)), 0.1)
    part = Score(M0, 1.5, tuple(float(s % 5) + 0.3 for s in range(4)), 0.1, of=S)
    viewed = Rising(RISE, base, ESTIMATE).view(part)
    assert viewed.samples == pytest.approx((0.1,) * 4)
    assert viewed.loss == pytest.approx((1.5 - 1.5) / 3)
