"""Bayesian search: a surrogate of the loss, fitted to the scored sets, chooses the sets to score next.

The first sets are the one-shot set and random draws from the prior (`_moves.py`). The surrogate is a Gaussian process
whose covariance depends on the blocks and the pairs of blocks that two sets share. Each batch of `batch` sets is
chosen to minimise a lower confidence bound, mean - kappa * deviation. The candidates are all sets one swap away from
the `elite` best sets, and as many draws from the prior. Swaps are used because a surrogate is reliable only near
scored sets, as in trust-region methods (Wan et al., arXiv 2102.07188).

Source: search 5 of arXiv 2604.24938, "prior-guided BO: 200 trials, 10 random inits"; the paper names no surrogate
and no acquisition function.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from pruning.algo import Found, Known, Proposals, _moves, check_above
from pruning.core.errors import check_least
from pruning.core.mask import Mask, Space

MOST = 4_000  # limit of candidates over sub-layers; beyond it, a random subset keeps the covariance small
WIDE = 100.0  # prior variance of the intercept and of the slope on the prior score
PAIRS, NUGGETS = (0.0, 0.25, 0.5, 0.75, 1.0), (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Bayesian:
    """Returns the best scored set. It is never worse than the one-shot set."""

    trials: int = 200
    random: int = 10
    batch: int = 8
    elite: int = 3
    kappa: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_least("algo", self, trials=1, random=1, batch=1, elite=1, kappa=0)
        check_above(self, temperature=0)

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Request one batch of single removals, one of first sets, then batches of sets that the surrogate chose."""
        known = Known()
        losses = yield from _moves.singles(space, known)
        count = min(1 + self.random, self.trials)
        trials, weights = _moves.first_masks(space, losses, self.temperature, count, rng)
        scores = yield from known.ask(trials)
        alone = np.zeros(space.n_units)
        alone[space.fitting()] = losses
        while len(trials) < self.trials and not _moves.scored_all(space, known):
            candidates = self._candidates(trials, scores, weights, space, rng)
            x, other = indicators(trials), indicators(candidates)
            model = Surrogate.fit(x, x @ alone, np.array(scores))
            mean, covariance = model.posterior(other, other @ alone)
            count = min(self.batch, self.trials - len(trials))
            chosen = [candidates[i] for i in promising(mean, covariance, model.nugget, count, self.kappa)]
            scores += yield from known.ask(chosen)
            trials += chosen
        every = _moves.scored_all(space, known)
        why = "every mask of the space was scored" if every else f"{self.trials} trials were made"
        return Found(known.best(space), why)

    def _candidates(
        self,
        trials: list[Mask],
        scores: list[float],
        weights: _moves.Array,
        space: Space,
        rng: np.random.Generator,
    ) -> list[Mask]:
        """Unscored masks: neighbours of the best `trials` (the scored masks), and random masks from the prior."""
        best = [trials[r] for r in np.argsort(scores, kind="stable")[: self.elite]]
        near = [mask for centre in best for mask in _moves.neighbours(centre, space)]
        near += [_moves.draw(space, rng, weights) for _ in near]
        new = sorted(dict.fromkeys(near).keys() - set(trials), key=lambda mask: mask.dropped)
        if space.unit == "sublayer" and len(new) > MOST:
            new = [new[i] for i in np.sort(rng.choice(len(new), MOST, replace=False))]
        return new or [_moves.fresh(best[0], trials, space, rng)]

    def evaluations(self, space: Space) -> int:
        """N single removals plus min(trials, size of the space)."""
        return _moves.n_singles(space) + min(self.trials, space.size)


def indicators(masks: list[Mask]) -> _moves.Array:
    """Masks as rows of 0 and 1, of shape (masks, n_units)."""
    rows = np.zeros((len(masks), masks[0].n_units))
    for row, mask in zip(rows, masks, strict=True):
        row[list(mask.dropped)] = 1
    return rows


# The surrogate.


@dataclass(frozen=True)
class Surrogate:
    """A Gaussian process for the losses y of n sets; `x` (n, N) has their 0-1 rows, and `a` has their prior scores.

    It is a Bayesian linear regression on one- and two-block features, the statistical model of BOCS (Baptista and
    Poloczek, arXiv 1806.08838, section 3) in dual form, with Gaussian priors in place of horseshoe priors. Sets S and
    T share |S & T| one-block and C(|S & T|, 2) two-block features. So the covariance of their losses is

        cov(S, T) = s^2 [ c (1 + a(S) a(T)) + (1 - r) |S & T| / k + r C(|S & T|, 2) / C(k, 2) + e [S = T] ]

    k is the mean size of the scored sets. a(S), the prior score of S, is the sum of its blocks'
    single-removal losses, standardised; c = WIDE. The nugget e is the variance that pairs cannot explain. r
    (`pairs`) and e are chosen from a grid to maximise the marginal likelihood; the scale s^2 has a closed form. So
    the fit needs no sampling: it solves n equations, not one for each of N + C(N, 2) coefficients.
    """

    x: _moves.Array
    a: _moves.Array
    y: _moves.Array
    pairs: float
    nugget: float

    @classmethod
    def fit(cls, x: _moves.Array, a: _moves.Array, y: _moves.Array) -> Surrogate:
        """The model with the highest evidence among all combinations of `PAIRS` and `NUGGETS`."""
        models = [cls(x, a, y, pairs, nugget) for pairs, nugget in product(PAIRS, NUGGETS)]
        return max(models, key=Surrogate.evidence)

    def evidence(self) -> float:
        """The logarithm of the marginal likelihood at the best s^2, up to a constant."""
        root, target = np.linalg.cholesky(self._noisy()), _standard(self.y, self.y)
        white = np.linalg.solve(root, target)
        fit = max(float(white @ white), np.finfo(float).tiny)  # above 0 even if all losses are equal
        return float(-len(target) / 2 * np.log(fit) - np.log(np.diag(root)).sum())

    def posterior(self, x: _moves.Array, a: _moves.Array) -> tuple[_moves.Array, _moves.Array]:
        """The mean, of shape (m,), and covariance, of shape (m, m), of the standardised losses of m other sets."""
        noisy, between = self._noisy(), self._kernel(self.x, self.a, x, a)
        target = _standard(self.y, self.y)
        solved = np.linalg.solve(noisy, np.column_stack([target, between]))
        variance = float(target @ solved[:, 0]) / len(target)
        mean: _moves.Array = between.T @ solved[:, 0]
        covariance: _moves.Array = variance * (self._kernel(x, a, x, a) - between.T @ solved[:, 1:])
        return mean, covariance

    def _noisy(self) -> _moves.Array:
        noisy: _moves.Array = self._kernel(self.x, self.a, self.x, self.a) + self.nugget * np.eye(len(self.x))
        return noisy

    def _kernel(self, x: _moves.Array, a: _moves.Array, other: _moves.Array, b: _moves.Array) -> _moves.Array:
        common, k = x @ other.T, float(self.x.sum(axis=1).mean())
        pairs = common * (common - 1) / max(k * (k - 1), 1.0)
        prior = WIDE * (1 + np.outer(_standard(a, self.a), _standard(b, self.a)))
        kernel: _moves.Array = prior + (1 - self.pairs) * common / k + self.pairs * pairs
        return kernel


def _standard(values: _moves.Array, by: _moves.Array) -> _moves.Array:
    """`values` minus the mean of `by`, divided by the standard deviation of `by`."""
    standard: _moves.Array = (values - by.mean()) / (by.std() or 1.0)
    return standard


def promising(
    mean: _moves.Array, covariance: _moves.Array, nugget: float, count: int, kappa: float
) -> list[int]:
    """The indices of the sets to score next. Each choice minimises mean - kappa * deviation.

    A chosen set is then treated as scored, with its predicted mean as its loss: no mean changes, and the deviations
    of similar sets fall. So the sets of a batch differ (GP-BUCB: Desautels, Krause and Burdick, JMLR 15, 2014).
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
