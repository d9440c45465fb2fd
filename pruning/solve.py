"""Drive a search against a loss: replay what is known, pay for the rest, journal every score at once.

Resuming is replaying. The search starts from nothing each time and is fed the journal's losses for as far
as they reach, which brings it back to where it stood.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from pruning import budget, files, ranks
from pruning.algo import Algo, Ask, Found, Gates
from pruning.errors import LossError
from pruning.margins import decision, margins
from pruning.mask import Mask, Space
from pruning.objective import Loss
from pruning.racing import Racing
from pruning.scores import Journal, Score, Store

# Told after each score: how many masks have one, over some samples or all, and the best loss over all so far.
Watch = Callable[[int, float], None]


class Losses(Protocol):
    """What is minimised, over all samples or over a part of them; see `pruning.objective.Calibrated`."""

    @property
    def whole(self) -> Loss:
        """The loss over all samples."""
        ...

    def part(self, start: int, stop: int) -> Loss:
        """The loss over the samples start..stop-1."""
        ...


@dataclass(frozen=True)
class Solution:
    """What a search ended with, and why it stopped.

    `asked` counts the losses that the search asked for, repeats included, `paid` those that this cell computed
    itself, in this run or an earlier one, `shared` those that another cell had paid for; a loss over a part of the
    samples counts as that part of one. The dense model's loss, and the final mask's where the search never scored
    it, are measured for the record and count as neither.
    """

    score: Score
    dense: Score
    why: str
    asked: float
    paid: float
    shared: float
    seconds: float
    margins: dict[str, Any]


@dataclass
class _Ledger:
    """Scores by mask, from three places: this cell's journal, other cells, the loss itself."""

    losses: Losses
    journal: Journal
    store: Store
    watch: Watch
    racing: Racing
    asked: dict[Mask, None] = field(default_factory=dict)
    count: float = 0.0
    best: dict[int, float] = field(
        default_factory=dict
    )  # the least new loss, by the number of blocks removed
    decisions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def samples(self) -> int:
        """How many samples a full score has."""
        return self.losses.whole.estimate.count

    def scores(self, masks: Sequence[Mask], samples: int | None = None) -> list[Score]:
        """Scores over the first samples, or all. Only what nobody knows is computed, each mask once."""
        wanted = self._wanted(samples)
        unknown = [mask for mask in masks if self._known(mask) < wanted]
        # Files may have grown since another rank looked: all ranks go by what the first one saw.
        for score in ranks.first(lambda: self.store.find(unknown)):
            self._note(self._given(score))
        missing: dict[int, dict[Mask, None]] = {}
        for mask in masks:
            if (known := self._known(mask)) < wanted:
                missing.setdefault(known, {})[mask] = None
        for known, group in missing.items():
            for mask, terms, seconds in self.losses.part(known, wanted).terms(list(group)):
                self._note(self._joined(mask, terms, seconds))
        return [self._first(self.journal.scores[mask], wanted) for mask in masks]

    def answer(self, request: Ask) -> list[float]:
        """Losses of the masks of a request; infinite for those that a race has ruled out."""
        self.asked.update(dict.fromkeys(request.masks))
        self.count += len(request.masks) * self._wanted(request.samples) / self.samples
        if request.samples is not None or request.best is None:
            return [score.loss for score in self.scores(request.masks, request.samples)]
        estimate = self.losses.whole.estimate
        finished = self.racing.race(request.masks, request.best, estimate, self.scores)
        out = [self.journal.scores[mask] for mask in request.masks if mask not in finished]
        if (made := decision(list(finished.values()), out, request.best, estimate)) is not None:
            self.decisions.append(made)
        return [finished[mask].loss if mask in finished else math.inf for mask in request.masks]

    def secant(self, space: Space) -> np.ndarray[Any, Any]:
        """The answer to `Gates` of a loss without a gradient: (samples, N), 0 for protected blocks."""
        masks = [space.drop(i) for i in space.free()]
        self.asked.update(dict.fromkeys(masks))
        self.count += len(masks)
        dense, *singles = self.scores([space.dense, *masks])
        found = np.zeros((self.samples, space.n_blocks))
        for mask, score in zip(masks, singles, strict=True):
            found[:, mask.dropped[0]] = np.subtract(dense.samples, score.samples)
        return found

    def _wanted(self, samples: int | None) -> int:
        """How many samples are meant: as many as there are at the most, and some of every kind."""
        return (
            self.samples
            if samples is None
            else min(max(samples, self.losses.whole.estimate.least), self.samples)
        )

    def _known(self, mask: Mask) -> int:
        """Of how many samples this cell knows the terms of a mask."""
        return len(self.journal.scores[mask].samples) if mask in self.journal.scores else 0

    def _joined(self, mask: Mask, terms: Sequence[float], seconds: float) -> Score:
        """A score that goes on from what is known of a mask."""
        old = self.journal.scores.get(mask)
        known, spent = (old.samples, old.seconds) if old is not None else ((), 0.0)
        return self._score(mask, (*known, *terms), spent + seconds)

    def _given(self, score: Score) -> Score:
        """A score of another cell, with the seconds that this one had spent on some of its samples."""
        old = self.journal.scores.get(score.mask)
        return score if old is None else replace(score, seconds=old.seconds)

    def _first(self, score: Score, samples: int) -> Score:
        """A score over the first samples of those it knows."""
        if len(score.samples) == samples:
            return score
        return self._score(score.mask, score.samples[:samples], score.seconds)

    def _score(self, mask: Mask, terms: tuple[float, ...], seconds: float) -> Score:
        partial = self.samples if len(terms) < self.samples else None
        return Score(mask, self.losses.whole.estimate.mean(terms), terms, seconds, partial)

    def _note(self, score: Score) -> None:
        self.journal.add(score)
        if score.of is None:
            size = len(score.mask.dropped)
            self.best[size] = min(score.loss, self.best.get(size, score.loss))
        if self.best:
            self.watch(len(self.journal.scores), self.best[max(self.best)])

    def paid(self) -> tuple[float, float]:
        """Of the losses asked for, how many were computed by this cell and how many by others."""
        scores = self.journal.scores
        total = math.fsum(len(scores[mask].samples) for mask in self.asked if mask in scores)
        own = math.fsum(self.journal.paid.get(mask, 0) for mask in self.asked)
        return own / self.samples, (total - own) / self.samples


def solve(
    algo: Algo,
    space: Space,
    losses: Losses,
    journal: Journal,
    store: Store,
    seed: int,
    watch: Watch,
    racing: Racing | None = None,
) -> Solution:
    """Find a mask of `space`. Raises LossError where a loss is NaN or infinite; the journal keeps the rest."""
    started = time.perf_counter()
    ledger = _Ledger(losses, journal, store, watch, racing or Racing())
    before = sum(score.seconds for score in journal.scores.values())
    dense = ledger.scores([space.dense])[0]
    found = _search(algo, space, np.random.default_rng(seed), ledger)
    score = ledger.scores([found.mask])[0]
    own, others = ledger.paid()
    seconds = before + time.perf_counter() - started
    shown = _margins(score, ledger)
    return Solution(score, dense, found.why, ledger.count, own, others, seconds, shown)


def _search(algo: Algo, space: Space, rng: np.random.Generator, ledger: _Ledger) -> Found:
    """Run the generator to its end and return what it found."""
    proposals = budget.proposals(algo, space, rng)
    answer: Any = None
    while True:
        try:
            request = proposals.send(answer)
        except StopIteration as end:
            return _checked(end.value, space)
        answer = ledger.answer(request) if isinstance(request, Ask) else _gates(request, space, ledger)


def _gates(_: Gates, space: Space, ledger: _Ledger) -> np.ndarray[Any, Any]:
    """Gradients at the gates of blocks, kept in a file beside the journal so that a resumed search sees the same.

    Raises LossError where they are no numbers.
    """
    gradient = ledger.losses.whole.gates
    if gradient is None:
        return ledger.secant(space)
    path = ledger.journal.path.with_name("gates.json")
    known: list[list[float]] | None = ranks.first(lambda: files.read_json(path) if path.exists() else None)
    if known is None:
        found = gradient()
        if not np.isfinite(found).all():
            raise LossError("the gradient at the gates is NaN or infinite: try model.dtype=float32.")
        known = found.tolist()
        if ranks.is_first():
            files.write_json(path, known)
    return np.array(known)


def _margins(winner: Score, ledger: _Ledger) -> dict[str, Any]:
    """How far the runner-up was, which masks are tied, and how near the decisions of the search were."""
    size = len(winner.mask.dropped)
    others = [
        score
        for mask in ledger.asked
        if len(mask.dropped) == size and (score := ledger.journal.scores.get(mask)) is not None
    ]
    found = margins(winner, others, ledger.losses.whole.estimate)
    return found | {"decisions": ledger.decisions[-LAST:]}


LAST = 32  # decisions that a result keeps


def best_so_far(scores: Sequence[Score], k: int) -> Iterator[tuple[int, float]]:
    """The curve of a search: number of scores, least loss so far among the masks that remove k blocks."""
    best = float("inf")
    for number, score in enumerate(scores, start=1):
        if len(score.mask.dropped) == k and score.of is None:
            best = min(best, score.loss)
            yield number, best


def _checked(found: Found, space: Space) -> Found:
    mask = found.mask
    if len(mask.dropped) != space.k or space.protected & set(mask.dropped):
        raise AssertionError(f"the search returned {mask}, which is not in {space}")
    return found
