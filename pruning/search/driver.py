"""Drive a search: answer its requests from known scores, compute the other scores, journal each score at once.

A resumed search starts again from the beginning. Losses that are in the journal are not computed again, so the search
soon reaches the point where it was stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pruning.algo import Algo, Ask, Found, Gates, Proposals, Request
from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, LossError, first_line
from pruning.core.mask import Mask, Space
from pruning.core.records import MarginsRecord
from pruning.core.scoring import Score
from pruning.engine import collectives
from pruning.objective import Gradient
from pruning.search.choice import Choice, FloatLoss, NearTies, Racing, Settler
from pruning.search.journal import KnownScores, Losses, ScoreBook, Watch
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
    proposals = counted_proposals(problem.algo, space, np.random.default_rng(problem.seed))
    answer: Any = None
    while True:
        try:
            request = proposals.send(answer)
        except StopIteration as end:
            return _checked(end.value, space)
        answer = choice.answer(request) if isinstance(request, Ask) else gated_answer(space, choice.book)


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


# Stop a search after `max_evaluations` distinct masks; even then, return a mask of the space.


def check_budget(algo: Algo) -> None:
    """Raise InputError if `max_evaluations` is below 1."""
    if algo.max_evaluations is not None and algo.max_evaluations < 1:
        raise InputError(
            f"algo.max_evaluations={algo.max_evaluations} allows no evaluation: "
            "choose at least 1, or null for no limit."
        )


def evaluations(algo: Algo, space: Space) -> int:
    """An upper bound on the number of losses that a search asks for within its budget."""
    most = algo.evaluations(space)
    return most if algo.max_evaluations is None else min(most, algo.max_evaluations)


@dataclass
class _Spent:
    """The distinct masks that a search has asked for, and their losses.

    `masks` includes masks that were scored on a part of the samples; `losses` contains only losses over all samples.
    """

    limit: float
    masks: dict[Mask, None] = field(default_factory=dict)
    losses: dict[Mask, float] = field(default_factory=dict)
    gates: np.ndarray[Any, Any] | None = None

    def affordable(self, request: Ask) -> list[Mask]:
        """Add masks of a request to `masks`, in order, until the budget is spent. Returns the allowed masks."""
        chosen = []
        for mask in request.masks:
            if mask not in self.masks and len(self.masks) >= self.limit:
                break
            self.masks[mask] = None
            chosen.append(mask)
        return chosen


def counted_proposals(algo: Algo, space: Space, rng: np.random.Generator) -> Proposals:
    """Yield the requests of a search until the search ends or its budget is spent."""
    limit = math.inf if algo.max_evaluations is None else algo.max_evaluations
    search, spent, answer = algo.propose(space, rng), _Spent(limit), None
    while True:
        try:
            request: Request = search.send(answer)
        except StopIteration as end:
            outcome: Found = end.value
            return outcome
        masks = _singles(space) if isinstance(request, Gates) else request.masks
        chosen = spent.affordable(Ask(masks))
        if len(chosen) < len(masks):
            part = Ask(chosen, None, request.samples if isinstance(request, Ask) else None)
            if chosen and part.samples is None:
                spent.losses.update(zip(chosen, (yield part), strict=True))
            return Found(completed(space, spent.losses, spent.gates), f"max_evaluations={limit} was reached")
        answer = yield request
        if isinstance(request, Gates):
            spent.gates = answer
        elif request.samples is None:
            spent.losses.update(zip([*request.known, *request.masks], answer, strict=True))


def completed(space: Space, losses: Mapping[Mask, float], gates: np.ndarray[Any, Any] | None = None) -> Mask:
    """The best evaluated mask of the space; failing that, the largest evaluated mask plus the cheapest single units.

    The largest mask is the mask that removes the most units; if there are several, the one with the lowest loss is
    extended. The cheapest unit is the unit whose removal alone gives the lowest loss. On a budget, the largest mask
    is the one of several units that cost most, and the cheapest unit has the least rise of the loss per cost. Units
    that were never removed alone are added last. They are ordered by the rise of the loss that the gates' gradients
    predict, smallest rise first.
    """

    def size(mask: Mask) -> float:
        return math.inf if space.complete(mask) else space.cost(*mask.dropped)

    # On a budget, a single unit that costs much is no start: it may be expensive for what it costs.
    few = 0 if space.budget is None else 1
    inside = [m for m in losses if space.complete(m) or len(m.dropped) > few]
    best = min(
        filter(space.extendable, inside), key=lambda mask: (-size(mask), losses[mask]), default=space.dense
    )
    rises = np.zeros(space.n_units) if gates is None else -gates.mean(axis=0)
    dense = losses.get(space.dense)

    def alone(i: int) -> tuple[float, float]:
        loss = losses.get(space.drop(i), math.inf)
        rate = loss if dense is None else space.per_cost(loss - dense, i)
        return rate, space.per_cost(float(rises[i]), i)

    return space.filled(best.dropped, sorted(space.free(best.dropped), key=alone))


def _singles(space: Space) -> list[Mask]:
    """The masks that `Gates` scores if the objective has no gradient: each removes one unprotected unit."""
    return [space.drop(i) for i in space.free()]


# Answer the request `Gates` with the gradients of the loss at the gates, or with secants if there are none.

NAME = "gates.json"


def gated_answer(space: Space, book: ScoreBook) -> np.ndarray[Any, Any]:
    """The gate gradients or secants, shape (samples, N), float64. Raises LossError if a gradient is NaN or infinite.

    Gradients are kept in a file beside the journal, so that a resumed search gets the same gradients.
    """
    gradient = book.losses.whole.gates
    if gradient is None:
        return _secant(space, book)
    if book.journal.path is None:
        return _finite(gradient, space.unit)
    path = book.journal.path.with_name(NAME)
    shape = book.samples, space.n_units
    known: np.ndarray[Any, Any] | None = collectives.on_first(
        lambda: _read(path, shape) if path.exists() else None
    )
    if known is None:
        known = _finite(gradient, space.unit)
        if collectives.is_first():
            storage.write_json(path, known.tolist())
    return known


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """The gradients in a file. Raises DamagedError unless they are finite numbers of this shape."""
    try:
        known = np.array(storage.read_json(path), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DamagedError(f"{path} is damaged ({first_line(error)}): move it away and run again.") from error
    if known.shape != shape or not np.isfinite(known).all():
        raise DamagedError(
            f"{path} is damaged (it holds {known.shape} values, and {shape} finite ones are needed): move it away "
            "and run again."
        )
    return known


def _finite(gradient: Gradient, unit: str) -> np.ndarray[Any, Any]:
    values = gradient(unit)
    if not np.isfinite(values).all():
        raise LossError("the gradient at the gates is NaN or infinite: try model.dtype=float32.")
    return values


def _secant(space: Space, book: ScoreBook) -> np.ndarray[Any, Any]:
    """For each sample and block, the dense model's term minus the term without the block. Protected blocks get 0."""
    masks = [space.drop(i) for i in space.free()]
    book.asked.update(dict.fromkeys(masks))
    book.count += len(masks)
    dense, *singles = book.scores([space.dense, *masks])
    rises = np.zeros((book.samples, space.n_units))
    for mask, score in zip(masks, singles, strict=True):
        rises[:, mask.dropped[0]] = np.subtract(dense.samples, score.samples)
    return rises
