"""CBO on gates: a quadratic model of the loss from one backward pass per sample.

Source: "Block removal through constrained binary optimisation" (arXiv 2602.00161) and its code. A gate a_i scales
what block i adds to the hidden state. All gates are 1 in the dense model; if x_i = 1, block i is removed and its gate
is 0. Let A_si be the derivative of sample s's term with respect to a_i, and m the number of samples. The expansion
around the dense model is

    D(S) ~ -g^T x + 1/2 x^T H x       g = mean over s of A_s       H = A^T A / m       sum x = k

H is the empirical Fisher matrix, used in place of the Hessian. The source assumes that the first-order term is zero,
as for a trained model, and minimises x^T H x. By default, this search does the same. `linear=true` keeps the
first-order term and minimises 1/2 x^T H x - g^T x. As the source advises, the `rescore` sets of least energy are
scored and the set of least loss is returned. (In the source, the set with the 17th lowest energy was better than the
set with the lowest.) With `rescore=0`, the minimum is returned unscored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.algo import Ask, Found, Gates, Proposals
from pruning.algo._quadratic import minima
from pruning.core.errors import InputError
from pruning.core.mask import Space


@dataclass(frozen=True)
class CboHessian:
    """Minimises the quadratic model exactly if there are at most `exact` sets, otherwise by swap annealing.

    Before it rescores sets, the search uses only gradients of the dense model, or secants if the objective has no
    gradient.
    """

    linear: bool = False
    rescore: int = 16
    exact: int = 100_000_000
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        for name in ("rescore", "exact"):
            if getattr(self, name) < 0:
                raise InputError(f"algo.{name}={getattr(self, name)} is negative: choose 0 or more.")

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Ask for the gradients, then for one batch of the sets of least energy."""
        a = (yield Gates())[:, space.fitting()]  # (m, units that can be removed)
        q = a.T @ a / len(a)
        if self.linear:
            q = q / 2 - np.diag(a.mean(axis=0))  # x_i^2 = x_i, so the diagonal holds the linear term
        best, exact = minima(q, space, max(1, self.rescore), self.exact, rng)
        how = "of all sets" if exact else "that annealing found"
        if not self.rescore:
            return Found(best[0], f"least energy {how}, unscored")
        losses = yield Ask(best, best=1)
        return Found(best[int(np.argmin(losses))], f"the {len(best)} least energies {how} were scored")

    def evaluations(self, space: Space) -> int:
        """The rescored sets, plus N + 1 for the secants, which are needed if the objective has no gradient."""
        return len(space.free()) + 1 + min(self.rescore, space.size)
