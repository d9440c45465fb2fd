"""Bounds in lazy searches and for rises per cost: the same masks for fewer losses, also after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from pruning.algo import Algo, Ask, Found, Proposals
from pruning.algo.beam import Beam
from pruning.algo.greedy import Greedy
from pruning.algo.local_search import LocalSearch
from pruning.core import scoring
from pruning.core.mask import Mask, Space
from pruning.core.scoring import Estimate
from pruning.objective import Loss
from pruning.search.choice import FloatLoss, NearTies, Racing
from pruning.search.driver import Problem, Solution, solve
from pruning.search.journal import Journal, KnownScores, Store
from tests.helpers.spaces import sublayer_space

N, K, S = 10, 4, 64
SPACE = Space(N, K)
RACING = Racing(0.01)
NAMES = (scoring.NAME, scoring.BOUNDS)


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
    known = KnownScores(scores, store, bounds, store.of(scoring.BOUNDS))
    return solve(Problem(algo, space, 0, racing), losses, known, lambda *_: None)


def test_a_race_uses_no_bounds(tmp_path: Path) -> None:
    plain, bounded = Losses(0, bounded=False), Losses(0)
    expected = search(tmp_path / "plain", plain, Greedy(), RACING)
    found = search(tmp_path / "bounded", bounded, Greedy(), RACING)
    assert found.score == expected.score
    assert bounded.bounds_paid == 0


def test_lazy_rounds_with_bounds_keep_the_mask_and_score_less(tmp_path: Path) -> None:
    lost, paid = 0, {True: 0, False: 0}
    for seed in range(12):
        whole = search(tmp_path / f"{seed}-whole", Losses(seed, bounded=False), Greedy(), Racing())
        for bounded in (True, False):
            losses = Losses(seed, bounded)
            lazy = search(tmp_path / f"{seed}-{bounded}", losses, Greedy(lazy=0.05), Racing())
            paid[bounded] += losses.terms_paid
            lost += bounded and lazy.score.mask != whole.score.mask
    assert lost <= 1, f"{lost} of 12 lazy searches lost the mask at a risk of 0.05"
    assert paid[True] < 0.6 * paid[False]


@dataclass
class Singles:
    """A search that asks for all single blocks, with or without estimates."""

    estimates: bool
    received: list[float] = field(default_factory=list)
    max_evaluations: int | None = None

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        masks = list(space.masks())
        self.received += yield Ask(masks, best=1, estimates=self.estimates)
        return Found(masks[int(np.argmin(self.received))], "all were asked for")

    def evaluations(self, space: Space) -> int:
        return space.size


@pytest.mark.parametrize("racing", [Racing(), RACING], ids=["no race", "race"])
def test_the_losses_of_masks_that_are_ruled_out_are_estimated(racing: Racing, tmp_path: Path) -> None:
    losses, algo, space = Losses(0), Singles(True), Space(N, 1)
    best = search(tmp_path / "estimates", losses, algo, racing, space).score
    masks = list(space.masks())
    out = [mask for mask, loss in zip(masks, infinite(tmp_path, racing), strict=True) if loss == np.inf]
    assert out, "nothing was ruled out"
    for mask, loss in zip(masks, algo.received, strict=True):
        own, difference = losses.term(mask), losses.term(mask) - losses.term(best.mask)
        if mask not in out:
            assert loss == pytest.approx(own.mean())
        elif racing.delta is None:
            assert loss == pytest.approx(own.mean(), abs=0.05), "the bound and the mean gap"
        else:
            seen = [best.loss + difference[:n].mean() for n in racing.looks(S)]
            assert any(loss == pytest.approx(estimate) for estimate in seen)


def infinite(folder: Path, racing: Racing) -> list[float]:
    """What the same search receives without estimates."""
    algo = Singles(False)
    search(folder / "infinite", Losses(0), algo, racing, Space(N, 1))
    return algo.received


@pytest.mark.parametrize("algo", [Greedy(), Beam(2)], ids=["greedy", "beam"])
def test_rises_per_cost_are_bounded_too(algo: Algo, tmp_path: Path) -> None:
    space, paid = sublayer_space(N, 0.3, None, (1, 3) * N), {True: 0, False: 0}
    for seed in range(10):
        found = {}
        for bounded in (True, False):
            losses = Losses(seed, bounded)
            found[bounded] = search(tmp_path / f"{seed}-{bounded}", losses, algo, Racing(), space)
            paid[bounded] += losses.terms_paid
        assert found[True].score == found[False].score
    assert paid[True] < 0.8 * paid[False]


@pytest.mark.parametrize("algo", [Greedy(), Greedy(lazy=0.05), Beam(3)], ids=["greedy", "lazy", "beam"])
def test_a_search_that_was_killed_ends_in_the_same_way(algo: Algo, tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", Losses(3), algo, Racing())
    files = [tmp_path / "whole/cell" / name for name in NAMES]
    scores, bounds = (file.read_text().splitlines(keepends=True) for file in files)
    for part in (0.25, 0.5, 0.75):
        cell = tmp_path / f"cut-{part}" / "cell"
        shutil.copytree(tmp_path / "whole" / "scores", cell.parent / "scores")
        cell.mkdir()
        (cell / NAMES[0]).write_text("".join(scores[: int(len(scores) * part)]))
        (cell / NAMES[1]).write_text("".join(bounds[: int(len(bounds) * part)]))
        losses = Losses(3)
        again = search(tmp_path / f"cut-{part}", losses, algo, Racing())
        assert again.score == whole.score
        assert again.margins == whole.margins
        assert 0 < losses.bounds_paid < S * len(bounds), "no bound was taken from the journal"


@pytest.mark.parametrize("algo", [Greedy(), Greedy(lazy=0.05)], ids=["greedy", "lazy"])
@pytest.mark.parametrize("racing", [Racing(), RACING], ids=["no race", "race"])
def test_scores_of_other_cells_do_not_change_what_is_found(
    algo: Algo, racing: Racing, tmp_path: Path
) -> None:
    paid = {"alone": 0, "beside": 0}
    for seed in range(5):
        alone, beside, folder = Losses(seed), Losses(seed), tmp_path / f"shared{seed}"
        expected = search(tmp_path / f"alone{seed}", alone, algo, racing)
        search(folder, Losses(seed, bounded=False), Beam(3), Racing(), cell="other")
        found = search(folder, beside, algo, racing)
        assert found.score.mask == expected.score.mask
        paid["alone"] += alone.terms_paid
        paid["beside"] += beside.terms_paid
    assert paid["beside"] < 0.2 * paid["alone"], "most of greedy's masks are among those of beam"


def test_bounds_of_other_cells_are_not_computed_again(tmp_path: Path) -> None:
    alone, beside = Losses(0), Losses(0)
    search(tmp_path / "alone", alone, Greedy(), Racing())
    search(tmp_path / "both", Losses(0), Greedy(), Racing(), Space(N, K - 1), cell="other")
    search(tmp_path / "both", beside, Greedy(), Racing())
    assert 0 < beside.bounds_paid < 0.4 * alone.bounds_paid, "only the last round is new"


class Blocks(Losses):
    """Losses over sub-layers in which whole blocks interact."""

    def term(self, mask: Mask) -> np.ndarray:
        rng, dropped = np.random.default_rng(self.seed + 5), set(mask.dropped)
        rise, pairs = rng.exponential(0.4, 2 * N) + 0.02, rng.normal(-0.3, 0.5, (N, N))
        whole = [i for i in range(N) if {2 * i, 2 * i + 1} <= dropped]
        more = sum(pairs[i, j] for i in whole for j in whole if i < j)
        return np.asarray(self.samples + rise[list(mask.dropped)].sum() + more)


@pytest.mark.parametrize("algo", [Greedy(), LocalSearch()], ids=["greedy", "local search"])
def test_a_mask_that_its_rise_rules_out_can_still_win(algo: Algo, tmp_path: Path) -> None:
    """The path of whole blocks needs masks that the path of single units has ruled out by their rise per cost."""
    space = sublayer_space(N, 0.3, None, (1, 1) * N)
    for seed in range(10):
        found = {}
        for bounded in (True, False):
            found[bounded] = search(
                tmp_path / f"{seed}-{bounded}", Blocks(seed, bounded, gap=0.05), algo, Racing(), space
            )
        assert found[True].score == found[False].score


class Late(Losses):
    """Block 0 leads the first look, block 1 is 0.1 worse on all samples, and block 2 is best over all samples."""

    def term(self, mask: Mask) -> np.ndarray:
        plain = 3.0 + np.linspace(0, 1, S)
        if not mask.dropped:
            return np.asarray(plain - 1)
        late = np.full(S, -0.4)
        late[:8] = [4, -2.5, 3, -2, 4, -3, 3, -2]
        return np.asarray(plain + {0: 0.0, 1: 0.1, 2: late}.get(mask.dropped[0], 5.0))


def test_an_estimate_is_never_below_the_loss_of_a_chosen_mask(tmp_path: Path) -> None:
    algo = Singles(True)
    search(tmp_path / "received", Late(0, bounded=False), algo, RACING, Space(N, 1))
    assert int(np.argmin(algo.received)) == 2, "block 1 was ruled out"
    lazy = search(tmp_path / "lazy", Late(0, bounded=False), Greedy(lazy=0.05), RACING, Space(N, 1))
    assert lazy.score.mask.dropped == (2,)


BASE = np.random.default_rng(0).permutation(np.repeat([1.0, -1.0], S // 2))


@dataclass
class Ties:
    """Losses of single blocks in half precision and in float32; the dense model's is 0.5, those of others 4.0.

    Each term of block b is rounded by `rounding[b]`, up or down, or else by 0.01.
    """

    half: dict[int, float]
    single: dict[int, float]
    bounds: dict[int, float]
    rounding: dict[int, float] = field(default_factory=dict)

    def solved(self, bounded: bool) -> Solution:
        whole = self.loss(self.half, rounded=True, bounded=bounded)

        class Whole:
            def __init__(self) -> None:
                self.whole = whole

            def part(self, start: int, stop: int) -> Loss:
                assert (start, stop) == (0, S)
                return whole

        problem = Problem(Greedy(), Space(N, 1), 0, Racing(), NearTies())
        floats = FloatLoss(lambda: self.loss(self.single), Journal(None, N))
        return solve(problem, Whole(), KnownScores(Journal(None, N)), lambda *_: None, floats)

    def loss(self, table: dict[int, float], rounded: bool = False, bounded: bool = False) -> Loss:
        def block(mask: Mask) -> int:
            return mask.dropped[0] if mask.dropped else -1

        def terms(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
            for mask in masks:
                off = self.rounding.get(block(mask), 0.01) * rounded
                yield mask, ((table | {-1: 0.5}).get(block(mask), 4.0) + off * BASE).tolist(), 0.1

        def bounds(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
            for mask in masks:
                yield mask, [self.bounds.get(block(mask), 3.0)] * S, 0.1

        return Loss(Estimate((1.0,) * S, (0,) * S), terms, bounds=bounds if bounded else None)


def test_near_ties_of_the_first_choice_are_settled_although_rounding_is_not_measured_yet() -> None:
    half, bounds = {0: 1.00, 1: 1.2, 2: 1.03}, {0: 0.995, 1: 1.0, 2: 1.025}
    ties = Ties(half, {0: 1.06, 1: 1.2, 2: 1.00}, bounds, dict.fromkeys(range(-1, N), 0.1))
    assert [ties.solved(bounded).score.mask.dropped for bounded in (False, True)] == [(2,), (2,)]


def test_the_rounding_of_a_mask_that_is_not_chosen_makes_no_tie() -> None:
    half, bounds = {0: 1.00, 1: 1.5, 2: 1.05, 3: 1.6}, {0: 0.9, 1: 0.5, 2: 0.95, 3: 0.6}
    ties = Ties(half, {0: 1.06, 1: 1.5, 2: 1.00, 3: 1.6}, bounds, {1: 0.3})
    plain, bounded = ties.solved(False), ties.solved(True)
    assert bounded.score == plain.score
    assert bounded.margins["near_ties"] == plain.margins["near_ties"]
