"""Run a search: answer its requests from known scores, compute missing scores, journal each score at once.

A resumed search starts again from the beginning. Losses in the journal are not computed again, so the search
soon reaches the point where it was stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import numpy as np

from pruning.algo import Algo, Ask, Found, Gates, Proposals
from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, LossError, first_line
from pruning.core.mask import Mask, Space
from pruning.core.records import MarginsRecord
from pruning.core.scoring import NearTies, Racing, Score
from pruning.engine import collectives
from pruning.search.decide import Decider, FloatLoss, Settler, margins
from pruning.search.journal import Journal, Losses, ScoreBook, Watch

LAST = 32  # a result keeps at most this many decisions: the most recent ones
GATES = "gates.json"  # beside the journal, so that a resumed search gets the same gradients


@dataclass(frozen=True)
class Problem:
    """A search problem: find a mask of `space` with `algo`; all randomness comes from `seed`.

    After `max_evaluations` distinct masks, the search is stopped (None: no limit). If `bounds` is true, only the
    search reads the losses, so lower bounds may rule out masks whose losses the search does not need.
    """

    algo: Algo
    space: Space
    seed: int
    racing: Racing
    near_ties: NearTies = field(default_factory=lambda: NearTies(most=0))
    max_evaluations: int | None = None
    bounds: bool = False


@dataclass(frozen=True)
class Solution:
    """The outcome of a search, and why it stopped.

    `asked` counts the losses that the search asked for, repeats included. `paid` counts the losses that this cell has
    computed, in this or an earlier run. `shared` counts the losses that it reads from other cells. A loss over a
    fraction of the samples counts as that fraction. The result also needs the dense model's loss, which is not
    counted. If the search never scored the final mask, or scored it in parts, its full loss is not counted either.
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
    problem: Problem,
    losses: Losses,
    journal: Journal,
    watch: Watch,
    single: FloatLoss | None = None,
    bounds: Journal | None = None,
) -> Solution:
    """Search for a mask. Scores are kept in the `journal`, and lower bounds of scores in `bounds` (None: in memory).

    If `single` is given, its float32 losses settle near ties. Raises LossError if a loss is NaN or infinite;
    the journal keeps earlier scores.
    """
    started, space = time.perf_counter(), problem.space
    book = ScoreBook(losses, journal, bounds or Journal(None, space.n_blocks, space.unit), watch)
    settler = Settler(problem.near_ties.most, single if problem.near_ties.most else None, book.estimate)
    # If a limit stops the search, it needs the losses of all single blocks to complete its best mask.
    decider = Decider(book, problem.racing, settler, problem.bounds and problem.max_evaluations is None)
    journals = [journal, book.bounds, *([] if single is None else [single.journal])]
    before = sum(score.seconds for kept in journals for score in kept.scores.values())
    dense = book.scores([space.dense])[0]
    requests = proposals(problem.algo, space, np.random.default_rng(problem.seed), problem.max_evaluations)
    answer: Any = None
    while True:
        try:
            request = requests.send(answer)
        except StopIteration as end:
            found: Found = end.value
            break
        answer = decider.answer(request) if isinstance(request, Ask) else gate_gradients(space, book)
    if found.mask not in space:
        raise AssertionError(f"the search returned {found.mask}, which is not in {space}")
    score = book.whole(found.mask)
    others = [journal.scores[m] for m in book.asked if space.complete(m) and m in journal.scores]
    settler.end(score, [other for other in others if other.of is None])
    record = margins(score, others, book.estimate)
    record["decisions"] = decider.decisions[-LAST:]
    if (near := settler.record()) is not None:
        record["near_ties"] = near
    paid, shared = book.paid()
    seconds = before + time.perf_counter() - started
    return Solution(score, dense, found.why, book.count, paid, shared, seconds, record)


def best_so_far(scores: Sequence[Score], complete: Callable[[Mask], bool]) -> Iterator[tuple[int, float]]:
    """Yield the curve of a search: (number of scores, lowest loss so far).

    Only masks that were scored on all samples and are `complete` count. A complete mask removes as much as the
    search must remove.
    """
    best = float("inf")
    for number, score in enumerate(scores, start=1):
        if complete(score.mask) and score.of is None:
            best = min(best, score.loss)
            yield number, best


# Stop a search after `max_evaluations` distinct masks; even then, return a mask of the space.


def check_limit(max_evaluations: int | None) -> None:
    """Raise InputError if `max_evaluations` is below 1."""
    if max_evaluations is not None and max_evaluations < 1:
        raise InputError(
            f"max_evaluations={max_evaluations} allows no evaluation: choose at least 1, or null for no limit."
        )


def proposals(algo: Algo, space: Space, rng: np.random.Generator, max_evaluations: int | None) -> Proposals:
    """Yield the requests of a search until it ends or would need more than `max_evaluations` distinct masks.

    A request for gate gradients counts as all single removals, which are scored instead if gradients are missing. A
    lazy round needs room for all its masks, but only those that are scored count.
    """
    limit = math.inf if max_evaluations is None else max_evaluations
    search, answer = algo.propose(space, rng), None
    spent: set[Mask] = set()  # also masks that were scored on a part of the samples
    losses: dict[Mask, float] = {}  # over all samples
    while True:
        try:
            request = search.send(answer)
        except StopIteration as end:
            return cast(Found, end.value)
        if isinstance(request, Gates):
            masks, whole = _single_removals(space), True
        else:
            masks, whole = request.masks, request.samples is None
        new = [mask for mask in dict.fromkeys(masks) if mask not in spent]
        if len(spent) + len(new) > limit:
            within = {*spent, *new[: int(limit) - len(spent)]}
            affordable = list(takewhile(within.__contains__, masks))
            if affordable and whole:
                losses.update(zip(affordable, (yield Ask(affordable)), strict=True))
            return Found(completed(space, losses), f"max_evaluations={limit} was reached")
        answer = yield request
        if isinstance(request, Ask) and whole:
            found = dict(zip(request.masks, answer, strict=True))
            if request.lazy is not None:  # a skipped mask costs nothing
                found = {mask: loss for mask, loss in found.items() if math.isfinite(loss)}
                new = [*found]
            losses |= found
        spent.update(new)


def completed(space: Space, losses: Mapping[Mask, float]) -> Mask:
    """The best evaluated mask of the space; if there is none, the largest evaluated mask, filled with single units.

    The largest mask is the mask that removes the most units; of several such masks, the mask with the lowest loss.
    Units whose removal alone gives the lowest losses are added first. If a share of the cost must be removed, the
    largest mask is the costliest mask that removes several units, and units with the smallest rise of the loss per
    cost are added first. Units that were never removed alone are added last.
    """

    def size(mask: Mask) -> float:
        return math.inf if space.complete(mask) else space.cost(*mask.dropped)

    # With a budget, a costly single unit is not a good start, because its rise per cost may be high.
    few = 0 if space.budget is None else 1
    inside = [m for m in losses if space.complete(m) or len(m.dropped) > few]
    best = min(
        filter(space.extendable, inside), key=lambda mask: (-size(mask), losses[mask]), default=space.dense
    )
    dense = losses.get(space.dense)

    def alone(i: int) -> float:
        loss = losses.get(space.drop(i), math.inf)
        return loss if dense is None else space.per_cost(loss - dense, i)

    return space.filled(best.dropped, sorted(space.free(best.dropped), key=alone))


# Answer the request `Gates`.


def gate_gradients(space: Space, book: ScoreBook) -> np.ndarray[Any, Any]:
    """The terms' gradients at the units' gates, or secants if there are no gradients; float64, of shape (samples, N).

    Raises LossError if a gradient is NaN or infinite, and DamagedError if an earlier run's file is damaged.
    """
    gradient = book.losses.whole.gates
    if gradient is None:
        return _secants(space, book)
    path = None if book.journal.path is None else book.journal.path.with_name(GATES)
    shape = book.samples, space.n_units
    known: np.ndarray[Any, Any] | None = collectives.on_first(
        lambda: _read(path, shape) if path is not None and path.exists() else None
    )
    if known is not None:
        return known
    values = gradient(space.unit)
    if not np.isfinite(values).all():
        raise LossError("the gradient at the gates is NaN or infinite: try model.dtype=float32.")
    if path is not None and collectives.is_first():
        storage.write_json(path, values.tolist())
    return values


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


def _secants(space: Space, book: ScoreBook) -> np.ndarray[Any, Any]:
    """For each sample and unit, the dense model's term minus the term without the unit (0 for protected units)."""
    masks = _single_removals(space)
    book.count_asked(masks)
    dense, *singles = book.scores([space.dense, *masks])
    rises = np.zeros((book.samples, space.n_units))
    for mask, score in zip(masks, singles, strict=True):
        rises[:, mask.dropped[0]] = np.subtract(dense.samples, score.samples)
    return rises


def _single_removals(space: Space) -> Sequence[Mask]:
    return [space.drop(i) for i in space.free()]
