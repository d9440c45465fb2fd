"""Bounds in races, in lazy searches and for rises per cost: the same masks for fewer losses, also after a kill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pruning.algo import Algo
from pruning.algo.beam import Beam
from pruning.algo.greedy import Greedy
from pruning.core import trace
from pruning.core.estimate import Estimate
from pruning.core.mask import Mask
from pruning.core.space import Space, sublayer_space
from pruning.objective import Loss
from pruning.search.driver import Problem, Solution, solve
from pruning.search.journal import Journal, KnownScores, Store
from pruning.search.racing import Racing

N, K, S = 10, 4, 64
SPACE = Space(N, K)
RACING = Racing(0.01)
NAMES = (trace.NAME, trace.BOUNDS)


class Losses:
    """Losses of samples that differ much, with noise for each mask and sample; bounds are about `gap` below them."""

    def __init__(self, seed: int, bounded: bool = True, gap: float = 0.1) -> None:
        self.seed, self.bounded, self.gap = seed, bounded, gap
        rng = np.random.default_rng(seed)
        self.samples, self.rise = rng.normal(3, 1, S), rng.exponential(0.4, 2 * N) + 0.02
        self.terms_paid, self.bounds_paid, self.scored = 0, 0, set[Mask]()

    def term(self, mask: Mask) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *mask.dropped])
        grown = 1 + 0.1 * len(mask.dropped)
        rise = grown * self.rise[list(mask.dropped)].sum() + rng.normal(0, 0.03)
        return np.asarray(self.samples + rise + rng.normal(0, 0.15, S))

    @property
    def whole(self) -> Loss:
        return self.part(0, S)

    def part(self, start: int, stop: int) -> Loss:
        def terms(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
            for mask in masks:
                self.terms_paid += stop - start
                self.scored.add(mask)
                yield mask, self.term(mask)[start:stop].tolist(), 0.1

        def bounds(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
            for mask in reversed(masks):
                self.bounds_paid += stop - start
                below = np.random.default_rng([7, *mask.dropped]).exponential(self.gap, S)
                yield mask, (self.term(mask) - below)[start:stop].tolist(), 0.1

        count = stop - start
        return Loss(Estimate((1.0,) * count, (0,) * count), terms, bounds=bounds if self.bounded else None)


def search(
    folder: Path, losses: Losses, algo: Algo, racing: Racing, space: Space = SPACE, cell: str = "cell"
) -> Solution:
    (folder / cell).mkdir(parents=True, exist_ok=True)
    store = Store(folder, "key", cell, N, unit=space.unit)
    store.claim()
    scores, bounds = (Journal.open(folder / cell / name, N, unit=space.unit) for name in NAMES)
    known = KnownScores(scores, store, bounds)
    return solve(Problem(algo, space, 0, racing), losses, known, lambda *_: None)


@pytest.mark.parametrize("algo", [Greedy(), Beam(3)], ids=["greedy", "beam"])
def test_a_race_keeps_the_best_mask_and_scores_less_with_bounds(algo: Algo, tmp_path: Path) -> None:
    lost, paid = 0, {True: 0, False: 0}
    for seed in range(30):
        whole = search(tmp_path / f"{seed}-whole", Losses(seed, bounded=False), algo, Racing())
        for bounded in (True, False):
            losses = Losses(seed, bounded)
            raced = search(tmp_path / f"{seed}-{bounded}", losses, algo, RACING)
            paid[bounded] += losses.terms_paid
            lost += bounded and raced.score.mask != whole.score.mask
    assert lost <= 1, f"{lost} of 30 races lost the mask at delta = 0.01 in each round"
    assert paid[True] < 0.95 * paid[False]


def test_alike_candidates_are_lost_at_most_as_often_as_stated(tmp_path: Path) -> None:
    """The hardest case: any candidate may win, and bounds are tight."""
    lost = 0
    for seed in range(100):
        losses, single = Losses(seed, gap=1e-9), Space(N, 1)
        losses.rise[:] = 0.1
        found = search(tmp_path / str(seed), losses, Greedy(), Racing(0.1), single)
        best = min(single.masks(), key=lambda mask, known=losses: float(known.term(mask).mean()))
        lost += found.score.mask != best
    assert lost <= 10


@pytest.mark.parametrize("racing", [Racing(), RACING], ids=["no race", "race"])
def test_lazy_rounds_with_bounds_keep_the_mask_and_score_less(racing: Racing, tmp_path: Path) -> None:
    lost, paid = 0, {True: 0, False: 0}
    for seed in range(30):
        whole = search(tmp_path / f"{seed}-whole", Losses(seed, bounded=False), Greedy(), Racing())
        for bounded in (True, False):
            losses = Losses(seed, bounded)
            lazy = search(tmp_path / f"{seed}-{bounded}", losses, Greedy(lazy=0.05), racing)
            paid[bounded] += losses.terms_paid
            lost += bounded and lazy.score.mask != whole.score.mask
    assert lost <= 3, f"{lost} of 30 lazy searches lost the mask at a risk of 0.05"
    assert paid[True] < 0.95 * paid[False]


@pytest.mark.parametrize("algo", [Greedy(), Beam(2)], ids=["greedy", "beam"])
def test_rises_per_cost_are_bounded_too(algo: Algo, tmp_path: Path) -> None:
    space, paid = sublayer_space(N, 0.3, None, (1, 3) * N), {True: 0, False: 0}
    for seed in range(20):
        found = {}
        for bounded in (True, False):
            losses = Losses(seed, bounded)
            found[bounded] = search(tmp_path / f"{seed}-{bounded}", losses, algo, Racing(), space)
            paid[bounded] += losses.terms_paid
        assert found[True].score == found[False].score
    assert paid[True] < 0.8 * paid[False]


@pytest.mark.parametrize("algo", [Greedy(), Greedy(lazy=0.05), Beam(3)], ids=["greedy", "lazy", "beam"])
@pytest.mark.parametrize("racing", [Racing(), RACING], ids=["no race", "race"])
def test_a_search_that_was_killed_ends_in_the_same_way(algo: Algo, racing: Racing, tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", Losses(3), algo, racing)
    files = [tmp_path / "whole/cell" / name for name in NAMES]
    scores, bounds = (file.read_text().splitlines(keepends=True) for file in files)
    for part in (0.25, 0.5, 0.75):
        cell = tmp_path / f"cut-{part}" / "cell"
        cell.mkdir(parents=True)
        (cell / NAMES[0]).write_text("".join(scores[: int(len(scores) * part)]))
        (cell / NAMES[1]).write_text("".join(bounds[: int(len(bounds) * part)]))
        losses = Losses(3)
        again = search(tmp_path / f"cut-{part}", losses, algo, racing)
        assert again.score == whole.score
        assert again.margins == whole.margins
        assert 0 < losses.bounds_paid < S * len(bounds), "no bound was taken from the journal"


@pytest.mark.parametrize("algo", [Greedy(), Greedy(lazy=0.05)], ids=["greedy", "lazy"])
@pytest.mark.parametrize("racing", [Racing(), RACING], ids=["no race", "race"])
def test_scores_of_other_cells_do_not_change_what_is_found(
    algo: Algo, racing: Racing, tmp_path: Path
) -> None:
    paid = {"alone": 0, "beside": 0}
    for seed in range(10):
        alone, beside, folder = Losses(seed), Losses(seed), tmp_path / f"shared{seed}"
        expected = search(tmp_path / f"alone{seed}", alone, algo, racing)
        search(folder, Losses(seed, bounded=False), Beam(3), Racing(), cell="other")
        found = search(folder, beside, algo, racing)
        assert found.score.mask == expected.score.mask
        paid["alone"] += alone.terms_paid
        paid["beside"] += beside.terms_paid
    assert paid["beside"] < 0.2 * paid["alone"], "most of greedy's masks are among those of beam"
