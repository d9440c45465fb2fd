"""Fast-Block-Select: replace runs of neighbouring blocks by runs of the same length with a lower joint loss.

The set P starts as the one-shot set. The runs of neighbours in P compete with other runs of the same length (for
a share of the cost, also of the same cost). The joint loss of removing a run is measured for the runs of P and,
for each length, for the `candidates` runs with the lowest sum of single-removal losses. These runs are called
groups. The next P replaces each run of P by a group of its length; the groups are disjoint and have the lowest
total loss; ties keep P. This is repeated until P is unchanged or equals an earlier P. P as a whole is never
scored, so it can be worse than the one-shot set.

Source: search 7 of arXiv 2604.24938, which is MI-PRUN (arXiv 2601.07212, algorithm 1). The loss replaces mutual
information here. MI-PRUN does not state the number of candidates, when groups conflict, or which groups are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from pruning.algo import Found, Known, Proposals
from pruning.algo._moves import one_shot, singles
from pruning.core.errors import check_least
from pruning.core.mask import Mask, Space

Run = tuple[int, ...]
Size = tuple[int, int]  # the number of units of a run, and their cost


@dataclass(frozen=True)
class FastBlockSelect:
    """Starts from the one-shot set and uses the joint losses of neighbouring blocks, but no other interactions."""

    candidates: int = 5

    def __post_init__(self) -> None:
        check_least("algo", self, candidates=1)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Request one batch of single removals, then one batch of groups for each new P."""
        known = Known()
        losses = yield from singles(space, known)
        alone = dict(zip(space.fitting(), losses, strict=True))
        chosen, before = one_shot(space, losses), list[Mask]()
        while chosen not in before:
            before.append(chosen)
            current = sorted(runs(chosen.dropped), key=lambda run: _size(run, space), reverse=True)
            sizes = [_size(run, space) for run in current]
            pools = {size: self._pool(size, current, alone, space) for size in dict.fromkeys(sizes)}
            groups = [run for pool in pools.values() for run in pool]
            group_losses = yield from known.ask([space.drop(*group) for group in groups])
            best = disjoint(sizes, pools, dict(zip(groups, group_losses, strict=True)))
            chosen = space.drop(*(i for run in best for i in run))
        same = chosen == before[-1]
        why = "the set no longer changed" if same else "the search came back to an earlier set"
        return Found(chosen, why)

    def _pool(self, size: Size, current: Sequence[Run], alone: dict[int, float], space: Space) -> list[Run]:
        """The current runs of this size, and the `candidates` runs with the lowest sum of single-removal losses."""
        windows = [tuple(range(start, start + size[0])) for start in alone]
        inside = [run for run in windows if all(i in alone for i in run) and _size(run, space) == size]
        inside.sort(key=lambda run: sum(alone[i] for i in run))
        same = [run for run in current if _size(run, space) == size]
        return list(dict.fromkeys([*same, *inside[: self.candidates]]))

    def evaluations(self, space: Space) -> int:
        """At most one loss for each sequence (run) of 1 to k unprotected neighbours; with a budget, one for dense."""
        units = set(space.fitting())
        starts = product(range(1, space.k + 1), units)
        inside = sum(all(i in units for i in range(start, start + length)) for length, start in starts)
        return inside + (space.budget is not None)


def runs(units: Sequence[int]) -> list[Run]:
    """The maximal runs of neighbours in a sorted sequence of units, longest first."""
    cuts = [0, *(r for r in range(1, len(units)) if units[r] != units[r - 1] + 1), len(units)]
    return sorted((tuple(units[a:b]) for a, b in pairwise(cuts)), key=len, reverse=True)


def _size(run: Run, space: Space) -> Size:
    return len(run), space.cost(*run)


def disjoint(sizes: Sequence[Size], pools: dict[Size, list[Run]], losses: dict[Run, float]) -> list[Run]:
    """The disjoint runs of these sizes with the lowest total loss. In `sizes`, equal sizes are adjacent.

    Branch and bound: runs of equal size are chosen in order of rising loss. So the n-th chosen run of a size
    has at least the n-th lowest loss, which gives a lower bound on the total of a partial choice. A partial
    choice is dropped if its bound is not below the best total. Ties go to the first runs of the pools.
    """
    ranked = {size: sorted(pool, key=losses.__getitem__) for size, pool in pools.items()}
    least = [losses[ranked[size][sizes[:r].count(size)]] for r, size in enumerate(sizes)]
    best: tuple[float, list[Run]] = (math.inf, [])

    def extend(chosen: list[Run], total: float, start: int) -> None:
        nonlocal best
        done = len(chosen)
        if done == len(sizes):
            best = (total, chosen)
            return
        pool, used = ranked[sizes[done]], {i for run in chosen for i in run}
        for rank in range(start, len(pool)):
            cost = total + losses[pool[rank]]
            if cost + sum(least[done + 1 :]) >= best[0]:
                break
            if not used & set(pool[rank]):
                same = sizes[done + 1 : done + 2] == [sizes[done]]
                extend([*chosen, pool[rank]], cost, rank + 1 if same else 0)

    extend([], 0.0, 0)
    return best[1]
