"""A Gaussian process over sets of k blocks, and batches of sets that it expects most of.

The model is a Bayesian linear regression on one- and two-block features, the statistical model of BOCS (Baptista
and Poloczek, arXiv 1806.08838, section 3) with Gaussian instead of horseshoe priors, written in its dual form:
two sets have |S & T| one-block and C(|S & T|, 2) two-block features in common, so

    cov(S, T) = s^2 [ c (1 + a(S) a(T)) + (1 - r) |S & T| / k + r C(|S & T|, 2) / C(k, 2) + e [S = T] ]

with a(S) the standardised sum of the losses of single removals: the prior, whose slope is learnt. c is wide. The
share r of pairs and the nugget e, for what pairs cannot explain, maximise the marginal likelihood on a grid; s^2
has a closed form. That is a matrix of at most `trials` rows in place of N + C(N, 2) coefficients, and no sampling
of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

WIDE = 100.0
PAIRS, NUGGETS = (0.0, 0.25, 0.5, 0.75, 1.0), (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Surrogate:
    """Fitted to sets x (n, N) of 0 and 1, with prior scores a (n,) and losses y (n,), both standardised here."""

    x: Array
    a: Array
    y: Array
    pairs: float
    nugget: float

    @classmethod
    def fit(cls, x: Array, a: Array, y: Array) -> Surrogate:
        """The most likely of all shares of pairs and nuggets."""
        models = [cls(x, a, y, pairs, nugget) for pairs, nugget in product(PAIRS, NUGGETS)]
        return max(models, key=Surrogate.evidence)

    def evidence(self) -> float:
        """Logarithm of the marginal likelihood at the best s^2, up to a constant."""
        root, target = np.linalg.cholesky(self._noisy()), _standard(self.y, self.y)
        white = np.linalg.solve(root, target)
        fit = max(float(white @ white), np.finfo(float).tiny)  # all losses may be equal
        return float(-len(target) / 2 * np.log(fit) - np.log(np.diag(root)).sum())

    def posterior(self, x: Array, a: Array) -> tuple[Array, Array]:
        """Mean (m,) and covariance (m, m) of the losses of other sets, in units of the standardised ones."""
        noisy, between = self._noisy(), self._kernel(self.x, self.a, x, a)
        target = _standard(self.y, self.y)
        solved = np.linalg.solve(noisy, np.column_stack([target, between]))
        variance = float(target @ solved[:, 0]) / len(target)
        mean: Array = between.T @ solved[:, 0]
        covariance: Array = variance * (self._kernel(x, a, x, a) - between.T @ solved[:, 1:])
        return mean, covariance

    def _noisy(self) -> Array:
        noisy: Array = self._kernel(self.x, self.a, self.x, self.a) + self.nugget * np.eye(len(self.x))
        return noisy

    def _kernel(self, x: Array, a: Array, other: Array, b: Array) -> Array:
        common, k = x @ other.T, float(self.x[0].sum())
        pairs = common * (common - 1) / max(k * (k - 1), 1.0)
        prior = WIDE * (1 + np.outer(_standard(a, self.a), _standard(b, self.a)))
        kernel: Array = prior + (1 - self.pairs) * common / k + self.pairs * pairs
        return kernel


def _standard(values: Array, by: Array) -> Array:
    """Values less the mean of others, over their standard deviation."""
    standard: Array = (values - by.mean()) / (by.std() or 1.0)
    return standard


def promising(mean: Array, covariance: Array, nugget: float, count: int, kappa: float) -> list[int]:
    """Which sets to score next: the least of mean - kappa * deviation, one after the other.

    Each choice is taken for scored at its mean, which leaves the means and lowers the deviations of sets like it, so
    that a batch is not one set in many guises (GP-BUCB: Desautels, Krause and Burdick, JMLR 15, 2014).
    """
    covariance, chosen = covariance.copy(), list[int]()
    open_ = np.ones(len(mean), dtype=bool)
    for _ in range(min(count, len(mean))):
        bound = mean - kappa * np.sqrt(np.clip(np.diag(covariance), 0.0, None))
        chosen.append(int(np.argmin(np.where(open_, bound, np.inf))))
        open_[chosen[-1]] = False
        column = covariance[:, chosen[-1]]
        covariance -= np.outer(column, column) / (column[chosen[-1]] + nugget)
    return chosen
