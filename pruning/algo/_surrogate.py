"""A Gaussian process that predicts the losses of sets of k blocks, and the choice of the sets to score next.

The model is a Bayesian linear regression on one- and two-block features. It is the statistical model of BOCS
(Baptista and Poloczek, arXiv 1806.08838, section 3) in dual form, with Gaussian priors in place of horseshoe priors.
Two sets S and T share |S & T| one-block features and C(|S & T|, 2) two-block features. So the covariance of their
losses is

    cov(S, T) = s^2 [ c (1 + a(S) a(T)) + (1 - r) |S & T| / k + r C(|S & T|, 2) / C(k, 2) + e [S = T] ]

k is the size of the sets, or the mean size of the scored sets if they differ (on a budget).
a(S) is the prior score of S: the sum of its blocks' single-removal losses, standardised. The slope of a(S) is learnt.
The variance c of intercept and slope is large. The nugget e is the variance that pairs cannot explain. r is the
weight of the two-block features, and 1 - r is the weight of the one-block features. r and e are chosen from a grid to
maximise the marginal likelihood. s^2 has a closed form. So the fit needs no sampling. It solves a system of at most
`trials` equations; a fit of the coefficients would have N + C(N, 2) unknowns.
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
    """The model for sets x (n, N) of 0 and 1, prior scores a (n,) and losses y (n,). It standardises a and y."""

    x: Array
    a: Array
    y: Array
    pairs: float
    nugget: float

    @classmethod
    def fit(cls, x: Array, a: Array, y: Array) -> Surrogate:
        """The model whose pair share and nugget give the greatest evidence on the grid."""
        models = [cls(x, a, y, pairs, nugget) for pairs, nugget in product(PAIRS, NUGGETS)]
        return max(models, key=Surrogate.evidence)

    def evidence(self) -> float:
        """The logarithm of the marginal likelihood at the best s^2, up to a constant."""
        root, target = np.linalg.cholesky(self._noisy()), _standard(self.y, self.y)
        white = np.linalg.solve(root, target)
        fit = max(float(white @ white), np.finfo(float).tiny)  # above 0 even if all losses are equal
        return float(-len(target) / 2 * np.log(fit) - np.log(np.diag(root)).sum())

    def posterior(self, x: Array, a: Array) -> tuple[Array, Array]:
        """The mean (m,) and covariance (m, m) of the standardised losses of m other sets."""
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
        common, k = x @ other.T, float(self.x.sum(axis=1).mean())
        pairs = common * (common - 1) / max(k * (k - 1), 1.0)
        prior = WIDE * (1 + np.outer(_standard(a, self.a), _standard(b, self.a)))
        kernel: Array = prior + (1 - self.pairs) * common / k + self.pairs * pairs
        return kernel


def _standard(values: Array, by: Array) -> Array:
    """Standardise `values` by the mean and the standard deviation of `by`."""
    standard: Array = (values - by.mean()) / (by.std() or 1.0)
    return standard


def promising(mean: Array, covariance: Array, nugget: float, count: int, kappa: float) -> list[int]:
    """The indices of the sets to score next. Each choice minimises mean - kappa * deviation.

    After each choice, the chosen set is treated as scored, with its predicted mean as its loss. All means stay the
    same, and the deviations of sets similar to the chosen set fall. So the sets of a batch differ from each other
    (GP-BUCB: Desautels, Krause and Burdick, JMLR 15, 2014).
    """
    covariance, chosen = covariance.copy(), list[int]()
    available = np.ones(len(mean), dtype=bool)
    for _ in range(min(count, len(mean))):
        bound = mean - kappa * np.sqrt(np.clip(np.diag(covariance), 0.0, None))
        chosen.append(int(np.argmin(np.where(available, bound, np.inf))))
        available[chosen[-1]] = False
        column = covariance[:, chosen[-1]]
        covariance -= np.outer(column, column) / (column[chosen[-1]] + nugget)
    return chosen
