"""Drive a search: answer its requests from known scores, compute the other scores, journal each score at once.

A resumed search starts again from the beginning. Losses that are in the journal are not computed again, so the search
soon reaches the point where it was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pruning.algo import Algo, Ask, Found
from pruning.core.margins_record import MarginsRecord
from pruning.core.mask import Mask
from pruning.core.score import Score
from pruning.core.space import Space
from pruning.search import budget, gates
from pruning.search.choice import Choice
from pruning.search.journal import KnownScores
from pruning.search.near_ties import FloatLoss, NearTies, Settler
from pruning.search.racing import Racing
from pruning.search.score_book import Losses, ScoreBook, Watch
from pruning.search.significance import margins

LAST = 32  # a result keeps at most this many decisions: the most recent ones


@dataclass(frozen=True)
class Problem:
    """A search problem: find a mask of `space` with `algo`; all randomness comes from `seed`."""

    algo: Algo
    space: Space
    seed: int
    racing: Racing
    near_ties: NearTies = field(default_factory=lambda: NearTies(most=0))


@dataclass(frozen=True)
class Solution:
    """The outcome of a search, and why it stopped.

    `asked` counts the losses that the search asked for, repeats included. `paid` counts the losses that this cell has
    computed itself, in this or an earlier run. `shared` counts the losses that another cell has computed. A loss
    over a fraction of the samples counts as that fraction. Two losses are needed for the result but not counted:
    the loss of the dense model and, if the search never scored the final mask or scored it in parts, the loss of the
    final mask.
    """

    score: Score
    dense: Score
    why: str
    asked: float
    paid: float
    shared: float
    seconds: float
    margins: MarginsRecord


def solve(
    problem: Problem, losses: Losses, known: KnownScores, watch: Watch, single: FloatLoss | None = None
) -> Solution:
    """Search for a mask. If `single` is given, near ties are settled by it.

    Raises LossError if a loss is NaN or infinite; the journal keeps earlier scores.
    """
    started = time.perf_counter()
    settler = Settler(problem.near_ties, single, losses.whole.estimate)
    # A search that is cut short completes its best mask by the losses of single blocks.
    whole = problem.algo.max_evaluations is None
    book = ScoreBook(losses, known, watch)
    choice = Choice(book, problem.racing, settler, bounding=whole)
    journals = [known.journal, known.bounds, *([] if single is None else [single.journal])]
    before = sum(score.seconds for journal in journals for score in journal.scores.values())
    settler.begin(problem.space.dense, resumed=bool(known.journal.scores))
    dense = book.scores([problem.space.dense])[0]
    outcome = _search(problem, choice)
    score = book.whole(outcome.mask)
    paid, shared = book.paid()
    seconds = before + time.perf_counter() - started
    return Solution(
        score, dense, outcome.why, book.count, paid, shared, seconds, _margins(score, choice, problem.space)
    )


def _search(problem: Problem, choice: Choice) -> Found:
    """Run the search's generator to its end and return its outcome."""
    space = problem.space
    proposals = budget.proposals(problem.algo, space, np.random.default_rng(problem.seed))
    answer: Any = None
    while True:
        try:
            request = proposals.send(answer)
        except StopIteration as end:
            return _checked(end.value, space)
        answer = choice.answer(request) if isinstance(request, Ask) else gates.answer(space, choice.book)


def _margins(winner: Score, choice: Choice, space: Space) -> MarginsRecord:
    """The runner-up, the masks tied with the winner, and the last decisions of the search."""
    book = choice.book
    others = [
        score
        for mask in book.asked
        if space.complete(mask) and (score := book.journal.scores.get(mask)) is not None
    ]
    choice.settler.end(winner, [score for score in others if score.of is None])
    record = margins(winner, others, book.losses.whole.estimate)
    record["decisions"] = choice.decisions[-LAST:]
    if (near := choice.settler.record()) is not None:
        record["near_ties"] = near
    return record


def best_so_far(scores: Sequence[Score], complete: Callable[[Mask], bool]) -> Iterator[tuple[int, float]]:
    """Yield the curve of a search: (number of scores, lowest loss so far).

    The loss is the lowest among the masks that are `complete`, which remove as much as the search was asked to, and
    were scored on all samples.
    """
    best = float("inf")
    for number, score in enumerate(scores, start=1):
        if complete(score.mask) and score.of is None:
            best = min(best, score.loss)
            yield number, best


def _checked(outcome: Found, space: Space) -> Found:
    if outcome.mask not in space:
        raise AssertionError(f"the search returned {outcome.mask}, which is not in {space}")
    return outcome
