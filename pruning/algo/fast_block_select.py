"""Fast-Block-Select: trade runs of neighbouring blocks for runs of the same length that cost less as a group.

Source: MI-PRUN (arXiv 2601.07212, algorithm 1); the paper's search (7), which puts its loss in the place of
mutual information, as the objective does here. The set P starts as the k cheapest blocks. Its runs of neighbours
are compared with runs of the same length elsewhere: these are ranked by the sum of their blocks' losses, the
first few are measured as groups, and a choice of groups without conflict is the next P, until P is unchanged. No
code is public and the text leaves open how many are measured (`candidates`, for each length), what a conflict is
(here: a block in common) and which choice is made (here: the least sum of the groups' losses, found exactly; a
tie keeps P). Should P come back to an earlier set instead, the search ends there too. P itself is never scored,
so it may end worse than one-shot, as it does in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pruning.algo import Found, Known, Proposals
from pruning.algo._prior import one_shot, singles
from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space

Run = tuple[int, ...]


@dataclass(frozen=True)
class FastBlockSelect:
    """One-shot that sees what neighbours cost together, and nothing else."""

    candidates: int = 5
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise InputError(f"algo.candidates={self.candidates} measures no group: choose at least 1.")

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """One batch of singles, then one of groups for each change of P."""
        known = Known()
        losses = yield from singles(space, known)
        alone = dict(zip(space.free(), losses, strict=True))
        chosen, before = one_shot(space, losses), list[Mask]()
        while chosen not in before:
            before.append(chosen)
            present = runs(chosen.dropped)
            pools = {len(run): self._pool(len(run), present, alone) for run in present}
            groups = [run for pool in pools.values() for run in pool]
            told = yield from known.ask([space.drop(*group) for group in groups])
            best = disjoint([len(run) for run in present], pools, dict(zip(groups, told, strict=True)))
            chosen = space.drop(*(i for run in best for i in run))
        same = chosen == before[-1]
        return Found(
            chosen, "the set no longer changed" if same else "the search came back to an earlier set"
        )

    def _pool(self, length: int, present: Sequence[Run], alone: dict[int, float]) -> list[Run]:
        """The present runs of a length and, of all others, those whose blocks are cheapest alone."""
        windows = [tuple(range(start, start + length)) for start in alone]
        inside = [window for window in windows if all(i in alone for i in window)]
        inside.sort(key=lambda window: sum(alone[i] for i in window))
        same = [run for run in present if len(run) == length]
        return list(dict.fromkeys([*same, *inside[: self.candidates]]))

    def evaluations(self, space: Space) -> int:
        """N singles and a few groups for each change of P; at most every run of 2 to k unprotected neighbours."""
        free = set(space.free())
        return sum(
            all(i in free for i in range(start, start + length))
            for length in range(1, space.k + 1)
            for start in free
        )


def runs(blocks: Sequence[int]) -> list[Run]:
    """The maximal runs of neighbours in a sorted set, longest first."""
    cuts = [0, *(r for r in range(1, len(blocks)) if blocks[r] != blocks[r - 1] + 1), len(blocks)]
    found = [tuple(blocks[a:b]) for a, b in pairwise(cuts)]
    return sorted(found, key=len, reverse=True)


def disjoint(lengths: Sequence[int], pools: dict[int, list[Run]], losses: dict[Run, float]) -> list[Run]:
    """Runs of these lengths, given longest first, no block in two of them, of least total loss.

    Branch and bound: equal lengths are filled in the order of rising losses, so that the n-th of them costs at least
    the n-th least, and a choice is given up when that cannot save it. Of equal totals, what comes first in a pool.
    """
    ranked = {length: sorted(pool, key=losses.__getitem__) for length, pool in pools.items()}
    least = [losses[ranked[length][lengths[:r].count(length)]] for r, length in enumerate(lengths)]
    best: tuple[float, list[Run]] = (math.inf, [])

    def extend(chosen: list[Run], total: float, start: int) -> None:
        nonlocal best
        done = len(chosen)
        if done == len(lengths):
            best = (total, chosen)
            return
        pool, used = ranked[lengths[done]], {i for run in chosen for i in run}
        for place in range(start, len(pool)):
            cost = total + losses[pool[place]]
            if cost + sum(least[done + 1 :]) >= best[0]:
                break
            if not used & set(pool[place]):
                same = lengths[done + 1 : done + 2] == [lengths[done]]
                extend([*chosen, pool[place]], cost, place + 1 if same else 0)

    extend([], 0.0, 0)
    return best[1]
