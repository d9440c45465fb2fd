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

from collections.abc import Collection, Generator
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from pruning.algo import Known, Request, _exchange
from pruning.core.mask import Mask, Space

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


# Tools of the stochastic searches: swaps of units, and a prior that favours units whose removal costs little.
#
# The paper calls its genetic and Bayesian searches "prior-guided" without saying what the prior is. Here the prior
# uses the same losses as one-shot. Unit i has the weight exp(-(s_i - min s) / (T * scale)). s_i is the loss if only
# unit i is removed; on a budget, its rise divided by the cost of the unit. T is the setting `temperature`. scale is
# the median of s_i - min s, so that T has the same effect for any unit of the loss. Sets are drawn unit by unit,
# without replacement, in proportion to the weights.

PriorArray: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def singles(space: Space, known: Known) -> Generator[Request, Any, PriorArray]:
    """The losses of removing each unit of `space.fitting()` alone. Use it with `yield from`.

    On a budget, these are the rises of the loss since the dense model, whose loss is asked for, too.
    """
    masks = [space.drop(i) for i in space.fitting()]
    if space.budget is None:
        return np.array((yield from known.ask(masks)))
    dense, *losses = yield from known.ask([space.dense, *masks])
    return np.array(losses) - dense


def n_singles(space: Space) -> int:
    """The number of losses that `singles` asks for."""
    return len(space.fitting()) + (space.budget is not None)


def rates(space: Space, losses: PriorArray) -> PriorArray:
    """What units are ranked by: the losses of `singles`, on a budget divided by the costs of the units."""
    return np.array([space.per_cost(loss, unit) for loss, unit in zip(losses, space.fitting(), strict=True)])


def one_shot(space: Space, losses: PriorArray) -> Mask:
    """The mask of the units with the least `rates` that fit. Ties go to the lower index."""
    return ranked(space, rates(space, losses))


def ranked(space: Space, values: PriorArray) -> Mask:
    """The mask of the units of `space.fitting()` with the least values that fit. Ties go to the lower index."""
    units = space.fitting()
    return space.filled((), (units[r] for r in np.argsort(values, kind="stable")))


def scale(losses: PriorArray) -> float:
    """The spread of the losses: the median minus the minimum, or 1 if this difference is 0."""
    return float(np.median(losses) - losses.min()) or 1.0


def log_weights(losses: PriorArray, temperature: float) -> PriorArray:
    """Logarithms of the prior's weights, up to a constant."""
    weights: PriorArray = (losses.min() - losses) / (temperature * scale(losses))
    return weights


def draw(space: Space, rng: np.random.Generator, weights: PriorArray | None = None) -> Mask:
    """A random mask of the space. Without log-weights, all masks are equally likely if there is no budget.

    Gumbel noise is added to each log-weight. The k units with the largest sums are a draw without replacement in
    proportion to the weights (Kool, van Hoof and Welling, arXiv 1903.06059). Unlike `rng.choice`, this also works
    with very small weights. On a budget, units are taken in the order of the sums if they fit.
    """
    units = space.fitting()
    keys = rng.gumbel(size=len(units)) + (0.0 if weights is None else weights)
    return space.filled((), (units[r] for r in np.argsort(-keys)))


def swapped(mask: Mask, space: Space, rng: np.random.Generator, swaps: int = 1) -> Mask:
    """A mask that keeps `swaps` random removed units of this mask and removes as many random kept units instead.

    If the mask removes or keeps fewer than `swaps` units, as many units as possible are swapped. k is unchanged. On a
    budget, these are `swaps` exchanges (`_exchange.py`), one after the other.
    """
    if space.budget is not None:
        for _ in range(swaps):
            mask = _exchange.exchanged(mask, space, rng)
        return mask
    kept = space.free(mask.dropped)
    swaps = min(swaps, len(mask.dropped), len(kept))
    back = rng.choice(mask.dropped, swaps, replace=False)
    gone = rng.choice(kept, swaps, replace=False) if swaps else ()
    return space.drop(*(set(mask.dropped) - {int(i) for i in back}), *(int(i) for i in gone))


def neighbours(mask: Mask, space: Space) -> list[Mask]:
    """All k * (N - k) masks that differ from this one by one swap of units; on a budget, by one exchange."""
    if space.budget is not None:
        return list(_exchange.neighbours(mask, space))
    dropped, kept = mask.dropped, space.free(mask.dropped)
    return [space.drop(*(d for d in dropped if d != back), gone) for back in dropped for gone in kept]


def fresh(mask: Mask, taken: Collection[Mask], space: Space, rng: np.random.Generator) -> Mask:
    """The mask, if it is not in `taken`; otherwise the first mask outside `taken` on a random walk of swaps.

    The space must contain at least one mask that is not in `taken`.
    """
    if space.budget is not None:
        return _exchange.walked(mask, taken, space, rng)
    while mask in taken:
        mask = swapped(mask, space, rng)
    return mask


def scored_all(space: Space, known: Known) -> bool:
    """Whether every mask of the space has been scored."""
    known_masks, size = known.losses, space.size
    return len(known_masks) >= size and sum(mask in space for mask in known_masks) == size
