"""Bounds rule masks out, and the search finds what it finds without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from pruning.algo import Algo
from pruning.algo.beam import Beam
from pruning.algo.greedy import Greedy
from pruning.algo.local_search import LocalSearch
from pruning.algo.one_shot import OneShot
from pruning.core.errors import LossError
from pruning.core.mask import Mask, Space
from pruning.core.scoring import Estimate
from pruning.objective import Loss
from pruning.search.choice import SLACK, Racing
from pruning.search.driver import Problem, Solution, solve
from pruning.search.journal import Journal, KnownScores, Store

N, K = 12, 4


class Losses:
    """Random losses of two samples, with bounds below them; `wrong` raises the bounds above."""

    def __init__(self, seed: int, bounds: bool = True, wrong: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        single, pairs = rng.exponential(0.3, N), np.triu(rng.normal(0, 0.15, (N, N)), 1)
        masks = [Mask(N, d) for k in range(K + 1) for d in combinations(range(N), k)]
        self.table, self.bound = {}, {}
        for mask in masks:
            at = list(mask.dropped)
            loss = 3.0 + single[at].sum() + pairs[np.ix_(at, at)].sum()
            self.table[mask] = loss + np.array([-0.5, 0.5])
            self.bound[mask] = self.table[mask] - rng.exponential(0.05) + wrong * rng.random()
        self.bounded, self.computed = bounds, list[Mask]()

    @property
    def whole(self) -> Loss:
        return Loss(Estimate((1.0, 1.0), (0, 0)), self.terms, bounds=self.bounds if self.bounded else None)

    def part(self, start: int, stop: int) -> Loss:
        assert (start, stop) == (0, 2)
        return self.whole

    def terms(self, masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
        for mask in masks:
            self.computed.append(mask)
            yield mask, self.table[mask].tolist(), 0.1

    def bounds(self, masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
        for mask in reversed(masks):
            yield mask, self.bound[mask].tolist(), 0.1


def search(folder: Path, losses: Losses, algo: Algo, racing: Racing | None = None) -> Solution:
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder, "key", "cell", N, share=False)
    store.claim()
    (folder / "cell").mkdir(exist_ok=True)
    journal = Journal.open(folder / "cell" / "trace.jsonl", N)
    problem = Problem(algo, Space(N, K), 0, racing or Racing())
    return solve(problem, losses, KnownScores(journal, store), lambda *_: None)


FEWER = (Greedy(), OneShot(), Beam(3), LocalSearch())
AS_MANY = (Greedy(max_evaluations=15), Beam(3, max_evaluations=20))


@pytest.mark.parametrize("algo", [*FEWER, *AS_MANY], ids=str)
def test_the_mask_is_that_of_a_search_without_bounds_and_fewer_losses_are_computed(
    algo: Algo, tmp_path: Path
) -> None:
    computed = {True: 0, False: 0}
    for seed in range(40):
        found = {}
        for bounds in (True, False):
            losses = Losses(seed, bounds)
            found[bounds] = search(tmp_path / f"{seed}-{bounds}", losses, algo)
            assert len(set(losses.computed)) == len(losses.computed), "a loss was computed twice"
            computed[bounds] += len(losses.computed)
        assert found[True].score == found[False].score
    assert computed[True] <= (0.8 if algo in FEWER else 1.0) * computed[False]


def test_a_bound_above_the_loss_would_be_noticed(tmp_path: Path) -> None:
    """The test above can fail: with bounds that are wrong, some masks differ."""
    masks = [
        search(tmp_path / f"{seed}-{wrong}", Losses(seed, wrong=wrong), Greedy()).score.mask
        for seed in range(20)
        for wrong in (0.0, 3.0)
    ]
    assert masks[::2] != masks[1::2]


def test_near_ties_are_scored(tmp_path: Path) -> None:
    losses = Losses(0)
    best, tied = Mask(N, (2,)), Mask(N, (7,))
    for mask in losses.table:
        losses.table[mask] = np.array([5.0, 5.0])
    other = Mask(N, (9,))
    for number, mask in enumerate((best, tied, other)):
        losses.table[mask] = np.array([3.0, 3.0]) + 0.45 * SLACK * number
    losses.bound = {mask: terms - 1e-9 for mask, terms in losses.table.items()}
    search(tmp_path, losses, Greedy())
    singles = {mask for mask in losses.computed if len(mask.dropped) == 1}
    assert singles == {best, tied, other}


def test_a_loss_that_is_not_a_number_is_refused_as_without_bounds(tmp_path: Path) -> None:
    losses = Losses(0)
    broken = Mask(N, (5,))
    losses.table[broken] = losses.bound[broken] = np.array([np.nan, np.nan])
    with pytest.raises(LossError):
        search(tmp_path, losses, Greedy())


def test_a_resumed_search_ends_with_the_same_result(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", Losses(3), Beam(3))
    search(tmp_path / "cut", Losses(3), Beam(3))
    trace = tmp_path / "cut/cell/trace.jsonl"
    lines = trace.read_text().splitlines(keepends=True)
    trace.write_text("".join(lines[: len(lines) // 2]))
    losses = Losses(3)
    again = search(tmp_path / "cut", losses, Beam(3))
    assert again.score == whole.score
    assert len(losses.computed) < len(lines), "nothing was taken from the journal"


def test_a_decision_says_how_many_masks_were_not_scored(tmp_path: Path) -> None:
    losses = Losses(1)
    decisions = search(tmp_path, losses, OneShot()).margins["decisions"]
    scored = sum(len(mask.dropped) == 1 for mask in losses.computed)
    assert K < scored < N
    assert [decision["skipped"] for decision in decisions] == [N - scored]
