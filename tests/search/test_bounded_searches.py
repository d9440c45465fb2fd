"""Bounds rule masks out: the same masks for fewer losses, also by rises per cost and after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.algo import Algo, Ask, Lazy
from pruning.algo.beam import Beam
from pruning.algo.greedy import Greedy
from pruning.algo.local_search import LocalSearch
from pruning.algo.one_shot import OneShot
from pruning.core import scoring
from pruning.core.errors import LossError
from pruning.core.mask import Mask, Space
from pruning.core.scoring import NearTies, Racing
from pruning.search.decide import SLACK, FloatLoss, looks_of
from pruning.search.driver import Problem, Solution, solve
from pruning.search.journal import Journal
from tests.helpers.searches import Scripted, TermLosses, solved
from tests.helpers.spaces import sublayer_space

N, K, S = 10, 4, 64
SPACE = Space(N, K)
RACING = Racing(0.01)


# Losses of samples that differ much, with noise for each mask and sample; bounds are about `gap` below them.


class Noisy(TermLosses):
    def __init__(self, seed: int, bounded: bool = True, gap: float = 0.1) -> None:
        rng = np.random.default_rng(seed)
        self.seed, self.gap = seed, gap
        self.common, self.rise = rng.normal(3, 1, S), rng.exponential(0.4, 2 * N) + 0.02
        super().__init__(self.terms_of, S, self.bound_of if bounded else None)

    def terms_of(self, mask: Mask) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *mask.dropped])
        grown = 1 + 0.1 * len(mask.dropped)
        rise = grown * self.rise[list(mask.dropped)].sum() + rng.normal(0, 0.03)
        return np.asarray(self.common + rise + rng.normal(0, 0.15, S))

    def bound_of(self, mask: Mask) -> np.ndarray:
        return self.terms_of(mask) - np.random.default_rng([7, *mask.dropped]).exponential(self.gap, S)


class SummedBlocks(Noisy):
    """Losses over sub-layers in which whole blocks interact."""

    def terms_of(self, mask: Mask) -> np.ndarray:
        rng, dropped = np.random.default_rng(self.seed + 5), set(mask.dropped)
        rise, pairs = rng.exponential(0.4, 2 * N) + 0.02, rng.normal(-0.3, 0.5, (N, N))
        whole = [i for i in range(N) if {2 * i, 2 * i + 1} <= dropped]
        more = sum(pairs[i, j] for i in whole for j in whole if i < j)
        return np.asarray(self.common + rise[list(mask.dropped)].sum() + more)


@pytest.mark.parametrize("algo", [Greedy(), OneShot(), Beam(3), LocalSearch()], ids=str)
def test_the_choice_is_that_of_a_search_without_bounds_and_fewer_losses_are_computed(
    algo: Algo, tmp_path: Path
) -> None:
    computed = {True: 0, False: 0}
    for seed in range(8):
        found = {}
        for bounded in (True, False):
            losses, folder = Noisy(seed, bounded), tmp_path / f"{seed}-{bounded}"
            found[bounded], _ = solved(folder, losses, algo, SPACE, share=False)
            assert len({*losses.masks}) == len(losses.masks), "a loss was computed twice"
            computed[bounded] += len(losses.masks)
            skipped = [decision.pop("skipped", 0) for decision in found[bounded].margins["decisions"]]
            assert any(skipped) == bounded
        assert found[True].score == found[False].score
        leads = [[decision["next"] for decision in found[b].margins["decisions"]] for b in (True, False)]
        assert leads[0] == leads[1], "the runners-up are the same, too"
    assert computed[True] <= 0.8 * computed[False]


def test_near_ties_are_scored_and_a_loss_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    near = {Mask(N, (block,)): 3.0 + 0.45 * SLACK * i for i, block in enumerate((2, 7, 9))}
    losses = TermLosses(
        lambda mask: np.full(S, near.get(mask, 5.0)), S, lambda mask: losses.term(mask) - 1e-9
    )
    solved(tmp_path / "near", losses, Greedy(), Space(N, 1))
    assert near.keys() <= {*losses.masks}
    near[Mask(N, (5,))] = np.nan
    with pytest.raises(LossError):
        solved(tmp_path / "broken", losses, Greedy(), Space(N, 1))


@pytest.mark.parametrize(
    ("algo", "racing", "most"),
    [(Greedy(), RACING, None), (Greedy(lazy=0.05), None, None), (Greedy(), None, 15)],
    ids=["race", "lazy", "limit"],
)
def test_a_race_lazy_rounds_and_a_limit_use_no_bounds(
    algo: Algo, racing: Racing | None, most: int | None, tmp_path: Path
) -> None:
    bounded = Noisy(0)
    expected, _ = solved(tmp_path / "plain", Noisy(0, bounded=False), algo, SPACE, racing, most=most)
    found, _ = solved(tmp_path / "bounded", bounded, algo, SPACE, racing, most=most)
    assert found.score == expected.score
    assert not bounded.bounded


def singles(lazy: bool, received: list[float]) -> Algo:
    """A search that asks for all masks of the space, as in a plain round or in the first lazy one."""

    def script(space: Space) -> Generator[Ask, Any, Mask]:
        masks = list(space.masks())
        received.extend((yield Ask(masks, best=1, lazy=Lazy({}, 0.05) if lazy else None)))
        return masks[int(np.argmin(received))]

    return Scripted(script)


def test_the_losses_of_masks_that_a_race_rules_out_are_estimated(tmp_path: Path) -> None:
    losses, space, estimated, plain = Noisy(0), Space(N, 1), list[float](), list[float]()
    best = solved(tmp_path / "estimates", losses, singles(True, estimated), space, RACING)[0].score
    solved(tmp_path / "infinite", Noisy(0), singles(False, plain), space, RACING)
    assert np.inf in plain, "nothing was ruled out"
    for mask, loss, other in zip(space.masks(), estimated, plain, strict=True):
        own = losses.term(mask)
        difference = own - losses.term(best.mask)
        seen = [best.loss + difference[:n].mean() for n in looks_of(S)]
        assert any(
            loss == pytest.approx(estimate) for estimate in (seen if other == np.inf else [own.mean()])
        )


def late(mask: Mask) -> np.ndarray:
    """Block 0 leads the first look, block 1 is 0.1 worse on all samples, and block 2 is best over all samples."""
    plain = 3.0 + np.linspace(0, 1, S)
    if not mask.dropped:
        return plain - 1
    last = np.full(S, -0.4)
    last[:8] = [4, -2.5, 3, -2, 4, -3, 3, -2]
    return np.asarray(plain + {0: 0.0, 1: 0.1, 2: last}.get(mask.dropped[0], 5.0))


def test_an_estimate_is_never_below_the_loss_of_a_chosen_mask(tmp_path: Path) -> None:
    space, received = Space(N, 1), list[float]()
    solved(tmp_path / "received", TermLosses(late, S), singles(True, received), space, RACING)
    assert int(np.argmin(received)) == 2, "block 1 was ruled out"
    lazy, _ = solved(tmp_path / "lazy", TermLosses(late, S), Greedy(lazy=0.05), space, RACING)
    assert lazy.score.mask.dropped == (2,)


@pytest.mark.parametrize(
    ("algo", "kind", "space", "saved"),
    [
        (Greedy(), Noisy, sublayer_space(N, 0.3, None, (1, 3) * N), 0.8),
        (Beam(2), Noisy, sublayer_space(N, 0.3, None, (1, 3) * N), 0.8),
        # The path of whole blocks needs masks that single units have ruled out by their rise per cost.
        (Greedy(), SummedBlocks, sublayer_space(N, 0.3, None, (1, 1) * N), 1.0),
        (LocalSearch(), SummedBlocks, sublayer_space(N, 0.3, None, (1, 1) * N), 1.0),
    ],
    ids=["greedy", "beam", "greedy of blocks", "local search of blocks"],
)
def test_rises_per_cost_are_bounded_too(
    algo: Algo, kind: type[Noisy], space: Space, saved: float, tmp_path: Path
) -> None:
    paid = {True: 0, False: 0}
    for seed in range(8):
        found = {}
        for bounded in (True, False):
            losses = kind(seed, bounded, gap=0.1 if kind is Noisy else 0.05)
            found[bounded], _ = solved(tmp_path / f"{seed}-{bounded}", losses, algo, space)
            paid[bounded] += losses.terms_paid
        assert found[True].score == found[False].score
    assert paid[True] <= saved * paid[False]


@pytest.mark.parametrize("algo", [Greedy(), Beam(3)], ids=["greedy", "beam"])
def test_a_search_that_was_killed_ends_in_the_same_way(algo: Algo, tmp_path: Path) -> None:
    whole, _ = solved(tmp_path / "whole", Noisy(3), algo, SPACE)
    names = (scoring.NAME, scoring.BOUNDS)
    lines = {name: (tmp_path / "whole/cell" / name).read_text().splitlines(keepends=True) for name in names}
    for part in (0.25, 0.75):
        cell, losses = tmp_path / f"cut-{part}" / "cell", Noisy(3)
        shutil.copytree(tmp_path / "whole" / "scores", cell.parent / "scores")
        cell.mkdir()
        for name in names:
            (cell / name).write_text("".join(lines[name][: int(len(lines[name]) * part)]))
        again, _ = solved(cell.parent, losses, algo, SPACE)
        assert (again.score, again.margins) == (whole.score, whole.margins)
        assert 0 < len(losses.bounded) < len(lines[scoring.BOUNDS]), "no bound was taken from the journal"
        assert len(losses.computed) < len(lines[scoring.NAME]), "no loss was taken from the journal"


@pytest.mark.parametrize("algo", [Greedy(), Greedy(lazy=0.05)], ids=["greedy", "lazy"])
@pytest.mark.parametrize("racing", [Racing(), RACING], ids=["no race", "race"])
def test_scores_of_other_cells_do_not_change_what_is_found(
    algo: Algo, racing: Racing, tmp_path: Path
) -> None:
    paid = {"alone": 0, "beside": 0}
    for seed in range(5):
        alone, beside, folder = Noisy(seed), Noisy(seed), tmp_path / f"shared{seed}"
        expected, _ = solved(tmp_path / f"alone{seed}", alone, algo, SPACE, racing)
        solved(folder, Noisy(seed, bounded=False), Beam(3), SPACE, cell="other")
        found, _ = solved(folder, beside, algo, SPACE, racing)
        assert found.score.mask == expected.score.mask
        paid["alone"] += alone.terms_paid
        paid["beside"] += beside.terms_paid
    assert paid["beside"] < 0.2 * paid["alone"], "most of greedy's masks are among those of beam"


# Bounds beside near ties.


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
        base = np.random.default_rng(0).permutation(np.repeat([1.0, -1.0], S // 2))

        def block(mask: Mask) -> int:
            return mask.dropped[0] if mask.dropped else -1

        def rounded(mask: Mask) -> np.ndarray:
            return (self.half | {-1: 0.5}).get(block(mask), 4.0) + self.rounding.get(block(mask), 0.01) * base

        bound = (lambda mask: np.full(S, self.bounds.get(block(mask), 3.0))) if bounded else None
        exact = TermLosses(lambda mask: np.full(S, (self.single | {-1: 0.5}).get(block(mask), 4.0)), S)
        problem = Problem(Greedy(), Space(N, 1), 0, Racing(), NearTies(), bounds=True)
        floats = FloatLoss(lambda: exact, Journal(None, N))
        return solve(problem, TermLosses(rounded, S, bound), Journal(None, N), lambda *_: None, floats)


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
