from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.scoring import Estimate, Racing, Score
from pruning.search.decide import looks_of
from pruning.search.decide import race as run_race

SAMPLES = 64
EVEN = Estimate((1.0,) * SAMPLES, (0,) * SAMPLES)


@dataclass
class Field:
    """Candidates with terms (candidates, samples); `paid` counts the samples asked for, by mask."""

    terms: np.ndarray
    paid: dict[Mask, int] = field(default_factory=dict)

    @property
    def masks(self) -> list[Mask]:
        return [Mask(len(self.terms), (i,)) for i in range(len(self.terms))]

    def __call__(self, masks: Sequence[Mask], samples: int | None = None) -> list[Score]:
        samples = SAMPLES if samples is None else samples
        self.paid.update(dict.fromkeys(masks, samples))
        return [self.score(mask, samples) for mask in masks]

    def score(self, mask: Mask, samples: int) -> Score:
        terms = tuple(self.terms[mask.dropped[0], :samples].tolist())
        return Score(mask, EVEN.mean(terms), terms, 1.0, None if samples == SAMPLES else SAMPLES)

    def winners(self, best: int) -> set[Mask]:
        order = np.argsort(self.terms.mean(1), kind="stable")[:best]
        return {self.masks[i] for i in order}


def candidates(seed: int, spread: float = 0.3, noise: float = 0.2, count: int = 28) -> Field:
    """Losses like those of blocks: samples differ much, candidates less, and each candidate has independent noise."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(3.0, 1.0, SAMPLES)
    return Field(
        difficulty + rng.exponential(spread, (count, 1)) + rng.normal(0, noise, (count, SAMPLES)),
    )


@pytest.mark.parametrize(("best", "at_most"), [(1, 0.6), (5, 0.7)])
def test_the_best_survive_and_much_is_saved(best: int, at_most: float) -> None:
    lost, paid = 0, []
    for seed in range(60):
        race = candidates(seed)
        finished = run_race(Racing(0.01), race.masks, best, EVEN, race)[0]
        lost += not race.winners(best) <= finished.keys()
        paid.append(sum(race.paid.values()) / race.terms.size)
    assert lost <= 1, f"{lost} of 60 races lost a winner at delta = 0.01"
    assert np.mean(paid) < at_most


def test_candidates_that_are_all_alike_are_lost_at_most_as_often_as_stated() -> None:
    """The hardest case: the sample noise decides the winner, so any candidate may win."""
    lost = 0
    for seed in range(100):
        race = candidates(seed, spread=1e-9)
        lost += not race.winners(1) <= run_race(Racing(0.05), race.masks, 1, EVEN, race)[0].keys()
    assert lost <= 100 * 0.05


@pytest.mark.parametrize("ratio", [2, 3])
def test_a_winner_that_varies_more_than_the_others_is_lost_at_most_as_often_as_stated(ratio: int) -> None:
    """Its error is estimated from its own terms only; the others' errors would make it look smaller than it is."""
    lost = 0
    for seed in range(100):
        terms = np.random.default_rng(seed).normal(size=(28, SAMPLES))
        terms[0] *= ratio
        terms -= terms.mean(1, keepdims=True)
        terms[0] -= 1e-3
        race = Field(terms)
        lost += not race.winners(1) <= run_race(Racing(0.05), race.masks, 1, EVEN, race)[0].keys()
    assert lost <= 100 * 0.05


def test_a_kind_with_only_one_known_sample_rules_nothing_out() -> None:
    """Its error is not known yet: the first look of a mixture with few windows may come too early."""
    race = candidates(0, count=4)
    parts = tuple(int(s % 16 != 0) for s in range(SAMPLES))
    mixed = Estimate((1.0,) * SAMPLES, parts, (0.5, 0.5))
    race.terms += np.arange(4.0)[:, None] * 10
    alive: list[int] = []

    def scorer(masks: Sequence[Mask], samples: int | None) -> list[Score]:
        alive.append(len(masks))
        return race(masks, samples)

    assert race.winners(1) <= run_race(Racing(0.01), race.masks, 1, mixed, scorer)[0].keys()
    assert alive[:4] == [4, 4, 4, 1], "looks at 8, 12 and 18 samples: the second window is the seventeenth"


@pytest.mark.parametrize(("ties", "lost"), [(1e-3, 0), (0.0, 1)])
def test_differences_that_count_as_ties_rule_nothing_out(ties: float, lost: int) -> None:
    """The first candidate is slightly worse in all of the first samples, and far better in a later one."""
    terms = np.zeros((2, SAMPLES))
    terms[0, :40] = 1e-6 * np.random.default_rng(0).uniform(1, 2, 40)
    terms[1, 50] = 1.0
    race, estimate = Field(terms), Estimate(EVEN.weights, EVEN.parts, ties=ties)
    assert race.winners(1) == {race.masks[0]}
    finished = run_race(Racing(0.01), race.masks, 1, estimate, race)[0]
    assert len(race.winners(1) - finished.keys()) == lost


def test_looks_grow_by_half_and_end_before_the_last_sample() -> None:
    assert looks_of(64) == [8, 12, 18, 27, 40, 60]
    assert looks_of(60) == [8, 12, 18, 27, 40]
    assert looks_of(8) == looks_of(1) == []


@pytest.mark.parametrize("delta", [0.0, 1.5])
def test_settings_that_make_no_sense_are_refused(delta: float) -> None:
    with pytest.raises(InputError, match=rf"^racing\.delta={delta:g} "):
        Racing(delta).check()
