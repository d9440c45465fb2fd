"""Drive a search against a loss: replay what is known, pay for the rest, journal every score at once.

Resuming is replaying. The search starts from nothing each time and is fed the journal's losses for as far
as they reach, which brings it back to where it stood.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pruning import ranks
from pruning.algo import Algo
from pruning.mask import Mask, Space
from pruning.objective import LossFn
from pruning.scores import Journal, Score, Store

# Told after each score: the number of distinct masks that the search has asked for, and the best loss so far.
Watch = Callable[[int, float], None]


@dataclass(frozen=True)
class Solution:
    """What a search ended with.

    `asked` counts the losses that the search asked for, repeats included; `paid` the masks among them that this
    cell computed itself, in this run or an earlier one; `shared` those that another cell had paid for. The dense
    model's loss, and the final mask's where the search never scored it, are measured for the record and count as
    neither.
    """

    score: Score
    dense: Score
    asked: int
    paid: int
    shared: int
    seconds: float


@dataclass
class _Ledger:
    """Scores by mask, from three places: this cell's journal, other cells, the loss itself."""

    losses: LossFn
    journal: Journal
    store: Store
    watch: Watch
    asked: list[Mask] = field(default_factory=list)
    best: dict[int, float] = field(
        default_factory=dict
    )  # the least new loss, by the number of blocks removed

    def scores(self, masks: Sequence[Mask]) -> list[Score]:
        """Scores of a batch of masks, in its order. Only what nobody knows is computed, each mask once."""
        unknown = [mask for mask in masks if mask not in self.journal.scores]
        # Files may have grown since another rank looked: all ranks go by what the first one saw.
        for score in ranks.from_first([known for mask in unknown if (known := self.store.get(mask))]):
            self._note(score)
        missing = [mask for mask in dict.fromkeys(masks) if mask not in self.journal.scores]
        for score in self.losses(missing) if missing else ():
            self._note(score)
        return [self.journal.scores[mask] for mask in masks]

    def _note(self, score: Score) -> None:
        self.journal.add(score)
        size = len(score.mask.dropped)
        self.best[size] = min(score.loss, self.best.get(size, score.loss))
        self.watch(len(self.journal.scores), self.best[max(self.best)])

    def search(self, algo: Algo, space: Space, rng: np.random.Generator) -> Mask:
        """Run the generator to its end and return the mask that it returns."""
        proposals = algo.propose(space, rng)
        losses: list[float] | None = None
        while True:
            try:
                masks = proposals.send(losses) if losses is not None else next(proposals)
            except StopIteration as end:
                return _checked(end.value, space)
            self.asked.extend(masks)
            losses = [score.loss for score in self.scores(masks)]


def solve(
    algo: Algo, space: Space, losses: LossFn, journal: Journal, store: Store, seed: int, watch: Watch
) -> Solution:
    """Find a mask of `space`. Raises LossError where a loss is NaN or infinite; the journal keeps the rest."""
    started = time.perf_counter()
    journal.scores = ranks.from_first(journal.scores)
    ledger = _Ledger(losses, journal, store, watch)
    before = sum(score.seconds for score in journal.scores.values())
    dense = ledger.scores([space.dense])[0]
    mask = ledger.search(algo, space, np.random.default_rng(seed))
    score = ledger.scores([mask])[0]
    paid = [journal.scores[m].seconds > 0 for m in dict.fromkeys(ledger.asked)]
    seconds = before + time.perf_counter() - started
    return Solution(score, dense, len(ledger.asked), sum(paid), len(paid) - sum(paid), seconds)


def best_so_far(scores: Sequence[Score], k: int) -> Iterator[tuple[int, float]]:
    """The curve of a search: number of scores, least loss so far among the masks that remove k blocks."""
    best = float("inf")
    for number, score in enumerate(scores, start=1):
        if len(score.mask.dropped) == k:
            best = min(best, score.loss)
            yield number, best


def _checked(mask: Mask, space: Space) -> Mask:
    if len(mask.dropped) != space.k or space.protected & set(mask.dropped):
        raise AssertionError(f"the search returned {mask}, which is not in {space}")
    return mask
