"""Greedy: in each of k rounds, score the removal of every remaining block and make the removal of lowest loss.

Source: SLEB (arXiv 2402.09025, algorithm 1), which protects the first and the last block (`protect.first=1
protect.last=1`); the paper's search (2). Ties go to the lower index. On a budget, a round removes the unit with the
least rise of the loss per cost (`_rank.py`) since the mask of the round before. Over sub-layers, a second path
removes whole blocks, and the better of the two masks is the answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pruning.algo import Ask, Found, Known, Proposals
from pruning.algo._rank import RANKS, both_paths, done, evaluations_by_blocks, per_cost
from pruning.algo.lazy import Lazy, check_risk
from pruning.core.errors import check_known
from pruning.core.mask import Mask, Space


@dataclass(frozen=True)
class Greedy:
    """Each removal takes the earlier removals into account. No removal is undone.

    If `lazy` is given, unpromising candidates are skipped; it is the risk that this changes the search (`lazy.py`).
    `rank` is `cost` or `loss`; see `_rank.py`. `blocks` says whether a search over sub-layers that ranks by rise per
    cost also follows the path of whole blocks.
    """

    lazy: float | None = None
    rank: str = "cost"
    blocks: bool = True

    def __post_init__(self) -> None:
        check_risk(self.lazy)
        check_known("algo", self, rank=RANKS)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        """Ask for one batch per round; each mask removes the previous winner's units and one more."""
        rounds = Lazy.of(self.lazy, space)
        if per_cost(space, self.rank):
            known = Known()
            found = yield from both_paths(space, known, rounds, self.blocks)
            return Found(min(found, key=known.losses.__getitem__), done(space))
        best: Mask = space.dense
        while not space.complete(best):
            masks = [best.drop(i) for i in space.fitting(best.dropped)]
            if rounds is not None:
                losses = yield from rounds.scored(dict.fromkeys(masks, best), 1)
                best = min(masks, key=lambda mask: losses.get(mask, math.inf))
            else:
                best = masks[int(np.argmin((yield Ask(masks, best=1))))]
        return Found(best, done(space))

    def evaluations(self, space: Space) -> int:
        """N + (N - 1) + ..., one term for each of the k rounds.

        On a budget, the dense model is added, and over sub-layers an upper bound for the path of whole blocks.
        """
        units, most = len(space.fitting()), 0
        if per_cost(space, self.rank):
            most = 1 + (evaluations_by_blocks(space) if self.blocks else 0)
        return sum(units - done for done in range(space.k)) + most
