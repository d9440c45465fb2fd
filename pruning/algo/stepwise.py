"""Searches that remove units step by step: one-shot, greedy and beam, and local search, which starts from them.

On a budget, units differ in cost, so the unit whose removal raises the loss least need not be the one that brings the
budget closest for this rise. `rank=cost` divides the rise by the unit's cost, as the greedy method for knapsacks does
(Dantzig, Operations Research 5, 1957). `rank=loss` takes the least loss whatever a unit costs, as BlockPruner does
(arXiv 2406.10594). Without a budget, both rank by the loss. Ties go to the lower index.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruning.algo import Ask, Found, Known, Proposals, Request, Rise
from pruning.algo._moves import neighbours, one_shot, ranked, rates, singles
from pruning.algo.lazy import Rounds, check_risk
from pruning.core.errors import check_known, check_least
from pruning.core.mask import Mask, Space, unit_noun

RANKS = ("cost", "loss")


@dataclass(frozen=True)
class OneShot:
    """Scores the removal of every single unit, then removes the k units that cost least, ignoring interactions.

    On a budget, units are removed in this order if they fit. Source: the paper's search (1), "top-k selection"; the
    perplexity criterion of Shortened LLaMA (arXiv 2402.02834, section 2.2).
    """

    rank: str = "cost"  # or "loss"

    def __post_init__(self) -> None:
        check_known("algo", self, rank=RANKS)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch of single removals."""
        if _per_cost(space, self.rank):
            values = rates(space, (yield from singles(space, Known())))
        else:
            # On a budget, any unit can be needed, because those that rank before it may not fit.
            best = space.k if space.budget is None else None
            values = np.array((yield Ask([space.drop(i) for i in space.fitting()], best=best)))
        return Found(ranked(space, values), f"every {unit_noun(space.unit)} was scored")

    def evaluations(self, space: Space) -> int:
        """The number of units that can be removed: N. On a budget, the dense model is added."""
        return len(space.fitting()) + _per_cost(space, self.rank)


@dataclass(frozen=True)
class Greedy:
    """In each of k rounds, scores the removal of every remaining unit and makes the removal of lowest loss.

    Source: SLEB (arXiv 2402.09025, algorithm 1), which protects the first and the last block (`protect.first=1
    protect.last=1`); the paper's search (2). On a budget, a round removes the unit with the least rise of the loss
    per cost since the mask of the round before. Over sub-layers, a second path removes whole blocks, and the better
    of the two masks is the answer. If `lazy` is given, unpromising candidates are skipped; it is the risk that this
    changes the search (`lazy.py`).
    """

    lazy: float | None = None
    rank: str = "cost"

    def __post_init__(self) -> None:
        check_risk(self.lazy)
        check_known("algo", self, rank=RANKS)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch per round; each mask removes the previous winner's units and one more."""
        rounds = Rounds(self.lazy, space.k)
        if _per_cost(space, self.rank):
            known = Known()
            found = yield from _both_paths(space, known, rounds)
            return Found(min(found, key=known.losses.__getitem__), _done(space))
        best: Mask = space.dense
        while not space.complete(best):
            masks = [best.drop(i) for i in space.fitting(best.dropped)]
            losses = yield from rounds.scored(dict.fromkeys(masks, best), 1)
            best = min(masks, key=lambda mask: losses.get(mask, math.inf))
        return Found(best, _done(space))

    def evaluations(self, space: Space) -> int:
        """N + (N - 1) + ..., one term per round; on a budget, also the dense model and the path of whole blocks."""
        units = len(space.fitting())
        more = 1 + evaluations_by_blocks(space) if _per_cost(space, self.rank) else 0
        return sum(units - done for done in range(space.k)) + more


@dataclass(frozen=True)
class Beam:
    """Like greedy, but keeps the `width` best sets of each size instead of one. With all sets, it is exhaustive.

    Source: the paper's search (3), B = 5. Ties go to the set that was reached first. On a budget, sets that meet it
    are set aside, and the one of least loss is the answer. The other sets of a round are compared by the rise of the
    loss since the dense model, divided by what they cost. Greedy divides the rise since the set of the round before,
    so beam with width 1 can differ from it there. `lazy` is as in `Greedy`.
    """

    width: int = 5
    lazy: float | None = None
    rank: str = "cost"

    def __post_init__(self) -> None:
        check_risk(self.lazy)
        check_known("algo", self, rank=RANKS)
        check_least("algo", self, width=1)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch per set size: the distinct sets that are one unit larger than the kept sets."""
        known, kept, rounds = Known(), [space.dense], Rounds(self.lazy, space.k)
        by_cost, dense = _per_cost(space, self.rank), 0.0
        if by_cost:
            (dense,) = yield from known.ask([space.dense])
            rounds.know(space.dense, dense)

        def value(mask: Mask) -> float:
            loss = known.losses.get(mask, math.inf)  # a mask that is ruled out has no loss
            return (loss - dense) / space.cost(*mask.dropped) if by_cost else loss

        while kept:
            parents: dict[Mask, Mask] = {}
            for best in kept:
                for i in space.fitting(best.dropped):
                    parents.setdefault(best.drop(i), best)
            partial = [mask for mask in parents if not space.complete(mask)]
            wanted: int | None = self.width if partial else 1
            if 0 < len(partial) < len(parents):  # the best complete set and the best partial sets are needed
                wanted = None
            by_rise = by_cost and len(partial) == len(parents)
            rise = _rise_since(space.dense, parents, space) if by_rise else None
            known.losses |= yield from rounds.scored(parents, wanted, rise)
            kept = sorted(partial, key=value)[: self.width]
        return Found(known.best(space), _done(space))

    def evaluations(self, space: Space) -> int:
        """The sum over set sizes of min(width, number of sets of that size) * (number of units left)."""
        units, dense = len(space.fitting()), _per_cost(space, self.rank)
        return dense + sum(min(self.width, math.comb(units, n)) * (units - n) for n in range(space.k))


@dataclass(frozen=True)
class LocalSearch:
    """Starts from the better of the one-shot and greedy sets, and swaps units until no swap lowers the loss.

    All k * (N - k) swaps of a set are one batch, and the best of them is taken if it lowers the loss. So the result
    is never worse than those of one_shot and greedy. On a budget, one unit can be exchanged for several.

    Source: the 1-exchange neighbourhood of subset problems (Hoos and Stützle, Stochastic Local Search, 2004, chapter
    1); not in the paper's panel.
    """

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch of single removals, one per round of greedy, and one per round of swaps."""
        known = Known()
        yield from known.ask((yield from self._starts(space, known)), best=1)
        best, previous = known.best(space), None
        while best != previous:
            previous = best
            yield from known.ask(neighbours(best, space), best=1)
            best = min(best, known.best(space), key=known.losses.__getitem__)
        return Found(best, "no swap lowers the loss")

    def _starts(self, space: Space, known: Known) -> Generator[Request, Any, list[Mask]]:
        """Score the rounds of greedy; returns the sets to start from that are not known yet, or not in full."""
        if space.budget is not None:  # greedy and one_shot rank by the rise of the loss per cost
            losses = yield from singles(space, known)
            rounds = Rounds(None, space.k)
            return [*(yield from _both_paths(space, known, rounds)), one_shot(space, losses)]
        alone = [space.drop(i) for i in space.free()]
        first = yield from known.ask(alone, best=space.k)
        greedy: Mask = alone[int(np.argmin(first))]
        while not space.complete(greedy):
            masks = [greedy.drop(i) for i in space.free(greedy.dropped)]
            greedy = masks[int(np.argmin((yield from known.ask(masks, best=1))))]
        return [one_shot(space, np.array(first))]

    def evaluations(self, space: Space) -> int:
        """The masks of greedy's rounds, plus the whole space, because the number of swaps is unknown."""
        units, budget = len(space.fitting()), space.budget is not None
        blocks = evaluations_by_blocks(space) if budget else 0
        return blocks + budget + sum(units - done for done in range(space.k - 1 + budget)) + space.size


# Rises per cost, and paths of them.


def _per_cost(space: Space, rank: str) -> bool:
    """Whether units are ranked by rise per cost, for which the search needs the loss of the dense model, too."""
    return space.budget is not None and rank == "cost"


def _rise_since(base: Mask, masks: Iterable[Mask], space: Space) -> Rise:
    """Compare masks by the rise of the loss since `base`, per cost of the units that `base` does not remove."""
    return Rise(base, {mask: space.cost(*{*mask.dropped} - {*base.dropped}) for mask in masks})


def _done(space: Space) -> str:
    """Why a search that removes one unit per round has stopped."""
    return "the budget was met" if space.budget is not None else f"k {unit_noun(space.unit)}s were removed"


def _both_paths(space: Space, known: Known, rounds: Rounds) -> Generator[Request, Any, list[Mask]]:
    """The mask that steps of single units lead to and, over sub-layers, that of steps of whole blocks, if any fits.

    Greedy over sub-layers can miss a mask of whole blocks that is better than all it finds, because removing one part
    of a block can cost much where removing both costs little. The second path removes whole blocks while they fit,
    and then single units; it is never worse than greedy over blocks at the same budget.
    """
    found = [(yield from _path(space, known, rounds, blocks=False))]
    if fitting_blocks(space, space.dense):
        found.append((yield from _path(space, known, Rounds(None, space.k), blocks=True)))
    return found


def _path(space: Space, known: Known, rounds: Rounds, blocks: bool) -> Generator[Request, Any, Mask]:
    """The mask of the space to which the steps of least rise of the loss per cost lead."""
    best = space.dense
    (before,) = yield from known.ask([best])
    rounds.know(best, before)
    while not space.complete(best):
        masks = fitting_blocks(space, best) if blocks else []
        masks = masks or [best.drop(i) for i in space.fitting(best.dropped)]
        rise = _rise_since(best, masks, space)
        losses = yield from rounds.scored(dict.fromkeys(masks, best), 1, rise)
        # A mask that its rise rules out can have the lowest loss, or the least rise since another mask.
        known.losses |= {mask: loss for mask, loss in losses.items() if math.isfinite(loss)}
        values = {mask: rise.rate(mask, losses.get(mask, math.inf), before) for mask in masks}
        best = min(masks, key=values.__getitem__)
        before = losses[best]
    return best


def fitting_blocks(space: Space, mask: Mask) -> list[Mask]:
    """The masks that remove both parts of one block more and can be extended to a mask of the space."""
    if space.unit != "sublayer":
        return []
    free = set(space.free(mask.dropped))
    pairs = [(2 * block, 2 * block + 1) for block in range(space.n_blocks)]
    larger = [mask.drop(*pair) for pair in pairs if free.issuperset(pair)]
    return [candidate for candidate in larger if space.extendable(candidate)]


def evaluations_by_blocks(space: Space) -> int:
    """The most losses that the path of whole blocks asks for."""
    first = fitting_blocks(space, space.dense)
    if not first:
        return 0
    pairs = [space.cost(*mask.dropped) for mask in first]
    least = min(space.cost(unit) for unit in space.fitting())
    rounds, last = space.k // 2, math.ceil(max(pairs) / least)
    return sum(len(first) - done for done in range(rounds)) + last * len(space.fitting())
