"""Near ties are settled in float32: the same choices on every processor, for few float32 scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import hadamard

from pruning.algo import Algo
from pruning.algo.beam import Beam
from pruning.algo.greedy import Greedy
from pruning.algo.one_shot import OneShot
from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space
from pruning.core.scoring import FLOAT32, Estimate, NearTies, Racing, Score
from pruning.objective import Loss
from pruning.search.decide import FAR, NEAR, FloatLoss, Settler, View
from pruning.search.driver import Problem, Solution, solve
from pruning.search.journal import Journal, Store, claim
from tests.helpers.searches import TermLosses

S = 8
SIGNS = hadamard(S)[1:]  # for each mask, the signs with which rounding moves its terms
MASKS = [Mask(6, (i,)) for i in range(6)]
ESTIMATE = Estimate((1.0,) * S, (0,) * S)
PLAIN = View(ESTIMATE)


class NearTieCase:
    """Masks with given losses in half precision and in float32; every term is off by `size` through rounding."""

    def __init__(self, half: Mapping[int, float], single: Mapping[int, float], size: float) -> None:
        self.scores = [
            Score(MASKS[i], loss, tuple((single.get(i, loss) + size * SIGNS[i]).tolist()), 1.0)
            for i, loss in half.items()
        ]
        self.single = {MASKS[i]: single.get(i, loss) for i, loss in half.items()}
        self.walks: list[list[Mask]] = []
        self.rounding = size * math.sqrt(
            2 * S / (S - 1) / S
        )  # the standard error of differences of -2, 0 and 2

    def settler(self, most: int = 8, journal: Journal | None = None, available: bool = True) -> Settler:
        floats = FloatLoss(lambda: self if available else None, journal or Journal(None, 6))
        return Settler(most, floats, ESTIMATE)

    @property
    def whole(self) -> Loss:
        return Loss(ESTIMATE, self.terms)

    def part(self, start: int, stop: int) -> Loss:
        assert (start, stop) == (0, S), "few samples are scored at once"
        return self.whole

    def terms(self, masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
        self.walks.append(list(masks))
        for mask in masks:
            yield mask, [self.single.get(mask, 0.0)] * S, 1.0


def best(losses: Mapping[Mask, float], count: int) -> set[Mask]:
    return set(sorted(losses, key=losses.__getitem__)[:count])


def counts(settler: Settler) -> tuple[int, int, int]:
    record = settler.record()
    assert record is not None
    return record["settled"], record["changed"], record["open"]


def test_the_first_choice_measures_the_rounding_of_a_pair_and_a_clear_choice_nothing() -> None:
    setting = NearTieCase({0: 1.0, 1: 2.0, 2: 3.0}, {}, 0.01)
    settler = setting.settler()
    for _ in range(2):
        assert settler.losses(setting.scores, 1, PLAIN) == {MASKS[0]: 1.0, MASKS[1]: 2.0, MASKS[2]: 3.0}
    settler.losses(setting.scores[1:], 1, PLAIN)
    assert setting.walks == [[MASKS[0], MASKS[1]]]
    assert settler.rounding == pytest.approx(setting.rounding)
    assert counts(settler) == (0, 0, 0)


@pytest.mark.parametrize(
    ("lead", "scored"), [(0.99 * NEAR, 3), (1.01 * NEAR, 2), (0.99 * FAR, 2), (1.01 * FAR, 0)]
)
def test_only_masks_within_the_measured_rounding_are_scored(lead: float, scored: int) -> None:
    size = NearTieCase({}, {}, 0.1).rounding
    half = {0: 1.0, 1: 1.0 + lead * size, 2: 1.0 + lead * size}
    setting = NearTieCase(half, {0: 5.0, 1: 5.0 + lead * size, 2: 9.0}, 0.1)
    settler = setting.settler()
    settler.measured[MASKS[3], MASKS[4]] = 0.0, size**2
    settler.losses(setting.scores, 1, PLAIN)
    assert [len(walk) for walk in setting.walks] == ([scored] if scored else []), "one walk"


@pytest.mark.parametrize(("lead", "computed"), [(0.04, [(0, 8)]), (0.005, [(0, 8), (8, 64)])])
def test_with_many_samples_the_rounding_is_measured_on_a_part_of_them(
    lead: float, computed: list[tuple[int, int]]
) -> None:
    count, noise = 64, np.random.default_rng(0).normal(0, 0.02, (2, 64))
    estimate = Estimate((1.0,) * count, (0,) * count)
    exact = TermLosses(lambda mask: np.full(count, 1.0 + lead * mask.dropped[0]), count)
    terms = [1.0 + lead * i + noise[i] - noise[i].mean() for i in range(2)]
    scores = [Score(MASKS[i], float(own.mean()), tuple(own.tolist()), 1.0) for i, own in enumerate(terms)]
    settler = Settler(8, FloatLoss(lambda: exact, Journal(None, 6)), estimate)
    assert best(settler.losses(scores, 1, PLAIN), 1) == {MASKS[0]}
    assert [part for mask, *part in exact.computed if mask == MASKS[1]] == [[*one] for one in computed]
    assert settler.rounding == pytest.approx(0.02 * math.sqrt(2 / count), rel=0.5)
    assert counts(settler)[0] == (len(computed) > 1), "only the second lead is a near tie"


def test_what_rounding_moves_in_all_masks_alike_does_not_count_and_what_it_moves_in_one_does() -> None:
    scores = [Score(MASKS[i], loss, (loss + 0.5,) * S, 1.0) for i, loss in enumerate((1.0, 1.01, 1.3))]
    setting = NearTieCase({0: 1.0, 1: 1.01, 2: 1.3}, {}, 0.0)
    settler = setting.settler()
    settler.losses(scores, 1, PLAIN)
    assert settler.rounding == pytest.approx(0, abs=1e-12)
    moved = [scores[0], Score(MASKS[1], 1.01, (1.71,) * S, 1.0), scores[2]]
    settler.losses(moved, 1, PLAIN)
    assert settler.rounding == pytest.approx(0.2 / math.sqrt(2)), (
        "the mean of two pairs; standard errors are 0"
    )
    assert {*setting.walks[-1]} == {MASKS[2]}, "a larger rounding makes a third mask near"


def test_a_measured_pair_is_put_in_the_order_of_its_float32_losses_even_if_it_was_not_near() -> None:
    setting = NearTieCase({0: 1.0, 1: 1.04, 2: 3.0}, {0: 1.05, 1: 1.04}, 0.0)
    settler = setting.settler()
    settler.measured |= {(Mask(99), Mask(99, (i,))): (0.0001, 0.0) for i in range(90)}
    half = [Score(mask, loss, (loss,) * S, 1.0) for mask, loss in zip(MASKS, (1.0, 1.04, 3.0), strict=False)]
    assert best(settler.losses(half, 1, PLAIN), 1) == {MASKS[1]}
    assert settler.reach < 0.04
    assert counts(settler) == (1, 1, 0)


def test_near_masks_are_put_in_the_order_of_their_float32_losses() -> None:
    setting = NearTieCase({0: 1.0, 1: 1.01, 2: 3.0}, {0: 1.02, 1: 1.0}, 0.02)
    settler = setting.settler()
    losses = settler.losses(setting.scores, 1, PLAIN)
    assert losses == {MASKS[0]: pytest.approx(1.01), MASKS[1]: 1.01, MASKS[2]: 3.0}
    assert best(losses, 1) == {MASKS[1]}
    assert counts(settler) == (1, 1, 0)
    equal = NearTieCase({0: 1.0, 1: 1.0, 2: 1.0}, {0: 1.2, 1: 1.1, 2: 1.1}, 0.02)
    assert best(equal.settler().losses(equal.scores, 1, PLAIN), 1) == {MASKS[1]}, "the first of equal ones"


def test_a_settled_loss_does_not_beat_a_better_mask_of_another_request() -> None:
    setting = NearTieCase({0: 1.0, 1: 1.01, 2: 1.005}, {0: 1.02, 1: 1.0, 2: 0.99}, 0.02)
    settler = setting.settler()
    losses = settler.losses(setting.scores[:2], 1, PLAIN) | settler.losses(setting.scores[2:], 1, PLAIN)
    assert best(losses, 1) == {MASKS[2]}


def test_too_many_near_masks_leave_the_decision_open_and_its_cost_bounded() -> None:
    setting = NearTieCase(dict.fromkeys(range(6), 1.0), {i: 2.0 - i / 100 for i in range(6)}, 0.1)
    settler = setting.settler(most=3)
    settler.losses(setting.scores, 2, PLAIN)
    assert sum(map(len, setting.walks)) == 3
    assert counts(settler)[2] == 1


@pytest.mark.parametrize(("winner", "left"), [(0, 0), (1, 1)])
def test_a_final_mask_that_could_lose_on_another_processor_is_open(winner: int, left: int) -> None:
    setting = NearTieCase({0: 1.0, 1: 1.0, 2: 3.0}, {0: 1.0, 1: 1.001}, 0.02)
    settler = setting.settler()
    settler.end(setting.scores[winner], setting.scores)
    assert counts(settler)[2] == left


def test_a_choice_of_all_masks_or_without_float32_keeps_its_losses() -> None:
    setting = NearTieCase({0: 1.0, 1: 1.0}, {}, 0.1)
    losses = {MASKS[0]: 1.0, MASKS[1]: 1.0}
    assert setting.settler().losses(setting.scores, 2, PLAIN) == losses
    off = Settler(0, None, ESTIMATE)
    assert off.losses(setting.scores, 1, PLAIN) == losses
    assert off.record() is None
    without = setting.settler(available=False)
    assert without.losses(setting.scores, 1, PLAIN) == losses
    assert without.record() == {"settled": 0, "changed": 0, "open": 0, "rounding": None}
    assert not setting.walks


def test_float32_scores_in_journals_are_not_computed_again(tmp_path: Path) -> None:
    setting, found = NearTieCase({0: 1.0, 1: 1.01, 2: 3.0}, {0: 1.02, 1: 1.0}, 0.02), []
    for cell, available in (("one", True), ("one", False), ("two", False)):
        claim(tmp_path, "key", cell)
        (tmp_path / cell).mkdir(exist_ok=True)
        journal = Journal.open(tmp_path / cell / FLOAT32, 6, ESTIMATE)
        journal.others = Store(tmp_path, "key", cell, 6, estimate=ESTIMATE, name=FLOAT32)
        settler = setting.settler(journal=journal, available=available)
        found.append(settler.losses(setting.scores, 1, PLAIN))
    assert found[0] == found[1] == found[2]
    assert setting.walks == [[MASKS[0], MASKS[1]]]


# Two processors.

N, K, SAMPLES = 8, 3, 16


def searched(algo: Algo, seed: int, processor: int, most: int, bounded: bool) -> tuple[Solution, int, int]:
    """A search on losses that a processor rounds in its own way; the numbers of scores in both precisions."""
    rng = np.random.default_rng(seed)
    single, pairs = rng.exponential(0.02, N), np.triu(rng.normal(0, 0.01, (N, N)), 1)
    samples = rng.normal(3, 1, SAMPLES)

    def exact(mask: Mask) -> np.ndarray:
        both = sum(pairs[pair] for pair in combinations(mask.dropped, 2))
        own = np.random.default_rng([seed, *mask.dropped]).normal(0, 0.1, SAMPLES)
        return np.asarray(samples + single[list(mask.dropped)].sum() + both + own - own.mean())

    def rounded(mask: Mask) -> np.ndarray:
        alike = np.random.default_rng([seed, processor]).normal(0, 0.05, SAMPLES)  # moves all masks
        own = np.random.default_rng([seed, processor, 1, *mask.dropped]).normal(0, 0.004, SAMPLES)
        return exact(mask) + alike + own

    half, whole = TermLosses(rounded, SAMPLES, lambda mask: rounded(mask) - 0.01), TermLosses(exact, SAMPLES)
    problem = Problem(algo, Space(N, K), 0, Racing(), NearTies(most), bounds=bounded)
    floats = FloatLoss(lambda: whole, Journal(None, N))
    solution = solve(problem, half, Journal(None, N), lambda *_: None, floats)
    return solution, len(half.computed), len(floats.journal.scores)


@pytest.mark.parametrize("algo", [Greedy(), OneShot(), Beam(2)], ids=["greedy", "one_shot", "beam"])
def test_rounding_changes_no_mask_and_few_masks_are_scored_in_float32(algo: Algo) -> None:
    differ = {0: 0, 8: 0}
    paid = np.zeros(2)
    for seed in range(60):
        for most in differ:
            one, *numbers = searched(algo, seed, 1, most, bounded=False)
            other, *_ = searched(algo, seed, 2, most, bounded=False)
            differ[most] += one.score.mask != other.score.mask
        paid += numbers
        bounded, *_ = searched(algo, seed, 1, 8, bounded=True)
        assert (bounded.score, bounded.margins["near_ties"]) == (one.score, one.margins["near_ties"])
    assert differ[0] > 5, "rounding does change masks without float32"
    assert differ[8] == 0
    assert paid[1] < 0.4 * paid[0]


@pytest.mark.parametrize("most", [-1, 1])
def test_a_useless_number_of_masks_is_refused(most: int) -> None:
    with pytest.raises(InputError, match=f"^near_ties.most={most} "):
        NearTies(most).check()
