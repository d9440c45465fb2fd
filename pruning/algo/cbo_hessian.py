"""CBO on gates. Source: "Block removal through constrained binary optimisation" (arXiv 2602.00161) and its code.

As the source advises, the `rescore` sets of lowest energy ("excited states") are scored, and the best is the
answer. In the source, the 17th set was better than the first. `rescore=0` returns the first set unscored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.algo import Ask, Found, Gates, Proposals
from pruning.algo._quadratic import minima
from pruning.core.errors import check_least
from pruning.core.mask import Space


@dataclass(frozen=True)
class CboHessian:
    """Minimises a quadratic model whose coefficients take one backward pass per sample.

    A gate a_i scales what unit i adds to the hidden state. All gates are 1 in the dense model; if x_i = 1, unit i is
    removed and its gate is 0. Let A_si be the derivative of sample s's term with respect to a_i, and m the number of
    samples. D(S), the rise of the loss if the units S are removed, is expanded around the dense model:

        D(S) ~ -g^T x + 1/2 x^T H x       g = mean over s of A_s       H = A^T A / m       sum x = k

    H is the empirical Fisher matrix, used in place of the Hessian. The source assumes that the first-order term is
    zero, as for a trained model, and minimises x^T H x; `linear=true` minimises 1/2 x^T H x - g^T x.
    """

    linear: bool = False
    rescore: int = 16

    def __post_init__(self) -> None:
        check_least("algo", self, rescore=0)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Request the gradients, then one batch of the sets of lowest energy."""
        a = (yield Gates())[:, space.fitting()]  # (m, units that can be removed)
        q = a.T @ a / len(a)
        if self.linear:
            q = q / 2 - np.diag(a.mean(axis=0))  # x_i^2 = x_i, so the diagonal holds the linear term
        best, how = minima(q, space, max(1, self.rescore), rng)
        if not self.rescore:
            return Found(best[0], f"least energy {how}, unscored")
        losses = yield Ask(best, best=1)
        return Found(best[int(np.argmin(losses))], f"the {len(best)} least energies {how} were scored")

    def evaluations(self, space: Space) -> int:
        """The rescored sets, plus N + 1 for the secants, which are needed if the objective has no gradient."""
        return len(space.free()) + 1 + min(self.rescore, space.size)
