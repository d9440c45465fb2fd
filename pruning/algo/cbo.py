"""CBO with measured coefficients. Source: "Block removal through constrained binary optimisation" (arXiv 2602.00161).

The source's coefficients come from gradients (`cbo_hessian.py`). The running time of search 6 of arXiv 2604.24938,
8,172 seconds, suggests measured coefficients: 30 single removals and 435 pairs would take 8,276 seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pruning.algo import Found, Known, Proposals
from pruning.algo._moves import n_singles, one_shot
from pruning.algo._quadratic import minima
from pruning.core.errors import check_least
from pruning.core.mask import Space


@dataclass(frozen=True)
class Cbo:
    """Scores all single units and pairs of units, then minimises the quadratic model that fits these losses.

    D(S) is the loss without the units S minus the loss of the dense model; x_i is 1 for units i in S, else 0:

        D(S) ~ x^T Q x     Q_ii = D(i)     Q_ij = 1/2 [D(ij) - D(i) - D(j)]     sum x = k

    x^T Q x is exact if the loss has only single and pairwise terms. For `perplexity`, the loss is the NLL, because
    with the NLL's exponential, one vital block would have large negative couplings with all others. The dense loss
    changes the energy of all sets of k units equally, so it is requested only if a share of the cost is removed.

    The `rescore` sets of lowest energy and the one-shot set are scored; `rescore=0` skips this step.
    """

    rescore: int = 16

    def __post_init__(self) -> None:
        check_least("algo", self, rescore=0)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Request one batch of single removals and pairs, then one of the sets of lowest energy."""
        known, units = Known(), space.fitting()
        pairs = list(combinations(range(len(units)), 2)) if space.k > 1 else []
        dense = [] if space.budget is None else [space.dense]
        masks = [*dense, *map(space.drop, units), *(space.drop(units[a], units[b]) for a, b in pairs)]
        losses = np.array((yield from known.ask(masks)))
        if dense:
            losses = losses[1:] - losses[0]
        alone, together = losses[: len(units)], losses[len(units) :]
        q = np.diag(alone)
        for (a, b), loss in zip(pairs, together, strict=True):
            q[a, b] = q[b, a] = (loss - alone[a] - alone[b]) / 2
        best, how = minima(q, space, max(1, self.rescore), rng)
        if not self.rescore:
            return Found(best[0], f"least energy {how}, unscored")
        yield from known.ask([*best, one_shot(space, alone)], best=1)
        return Found(known.best(space), f"the {len(best)} least energies {how} were scored")

    def evaluations(self, space: Space) -> int:
        """N single removals, N (N - 1) / 2 pairs if k > 1, and the rescored and one-shot sets if k > 2."""
        units = len(space.fitting())
        pairs = units * (units - 1) // 2 if space.k > 1 else 0
        last = self.rescore + 1 if self.rescore and space.k > 2 else 0
        return n_singles(space) + pairs + min(last, space.size)
