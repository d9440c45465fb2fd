"""Bayesian: a surrogate of the loss is fitted to the scored sets and chooses which sets to score next.

Source: the paper's search (5), "prior-guided BO: 200 trials, 10 random inits". The paper names neither surrogate nor
acquisition function. Choices made here: the random sets are drawn from the prior of single removals (`_prior.py`),
and the one-shot set is one of the trials. The surrogate is a Gaussian process whose kernel compares sets by the
blocks and the pairs of blocks that they share (see `_surrogate.py`). Tree-structured estimators (Optuna's default)
treat blocks as independent within the good sets and within the bad sets. So they would miss the interactions between
blocks, but these interactions are the reason why a ranking of blocks is not enough.

Each batch of `batch` sets minimises a lower confidence bound, mean - kappa * deviation. The candidates are all sets
that are one swap away from the `elite` best sets, and one draw from the prior for each of these sets. The surrogate
is trusted only near scored sets, as in trust-region methods for discrete spaces (Wan et al., arXiv 2102.07188). With
a smaller batch, the surrogate learns faster, but the masks of a batch share less work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.algo import Found, Known, Proposals
from pruning.algo._surrogate import (
    PriorArray,
    Surrogate,
    draw,
    fresh,
    log_weights,
    n_singles,
    neighbours,
    one_shot,
    promising,
    rates,
    scored_all,
    singles,
)
from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space

MOST = 4_000  # candidates among sub-layers; more are thinned at random, because their covariance would be too large


@dataclass(frozen=True)
class Bayesian:
    """Returns the best scored set. It is never worse than the one-shot set."""

    trials: int = 200
    random: int = 10
    batch: int = 8
    elite: int = 3
    kappa: float = 1.0
    temperature: float = 1.0
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("random", 1), ("batch", 1), ("elite", 1)):
            if getattr(self, name) < least:
                raise InputError(f"algo.{name}={getattr(self, name)} is too few: choose at least {least}.")
        if self.kappa < 0:
            raise InputError(f"algo.kappa={self.kappa:g} is negative: choose 0 or more.")
        if not self.temperature > 0:
            raise InputError(f"algo.temperature={self.temperature:g} is too small: choose a number above 0.")

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:
        """Ask for one batch of single removals, one of random sets, then batches of candidates."""
        known = Known()
        losses = yield from singles(space, known)
        weights = log_weights(rates(space, losses), self.temperature)
        trials = [one_shot(space, losses)]
        while len(trials) < min(1 + self.random, self.trials, space.size):
            trials.append(fresh(draw(space, rng, weights), trials, space, rng))
        scores = yield from known.ask(trials)
        while len(trials) < self.trials and not scored_all(space, known):
            candidates = self._candidates(trials, scores, weights, space, rng)
            count = min(self.batch, self.trials - len(trials))
            chosen = self._chosen(trials, np.array(scores), candidates, count, losses, space)
            scores += yield from known.ask(chosen)
            trials += chosen
        why = (
            "every mask of the space was scored"
            if scored_all(space, known)
            else f"{self.trials} trials were made"
        )
        return Found(known.best(space), why)

    def _candidates(
        self,
        trials: list[Mask],
        scores: list[float],
        weights: PriorArray,
        space: Space,
        rng: np.random.Generator,
    ) -> list[Mask]:
        """New masks: the neighbours of the best trials, and random masks from the prior."""
        best = [trials[r] for r in np.argsort(scores, kind="stable")[: self.elite]]
        near = [mask for centre in best for mask in neighbours(centre, space)]
        near += [draw(space, rng, weights) for _ in near]
        new = sorted(dict.fromkeys(near).keys() - set(trials), key=lambda mask: mask.dropped)
        if space.unit == "sublayer" and len(new) > MOST:
            new = [new[i] for i in np.sort(rng.choice(len(new), MOST, replace=False))]
        return new or [fresh(best[0], trials, space, rng)]

    def _chosen(
        self,
        trials: list[Mask],
        y: PriorArray,
        candidates: list[Mask],
        count: int,
        losses: PriorArray,
        space: Space,
    ) -> list[Mask]:
        """The candidates that form the next batch, chosen by a surrogate that is fitted to all trials."""
        alone = np.zeros(space.n_units)
        alone[space.fitting()] = losses
        x, other = indicators(trials), indicators(candidates)
        model = Surrogate.fit(x, x @ alone, y)
        mean, covariance = model.posterior(other, other @ alone)
        return [candidates[i] for i in promising(mean, covariance, model.nugget, count, self.kappa)]

    def evaluations(self, space: Space) -> int:
        """N single removals plus min(trials, size of the space)."""
        return n_singles(space) + min(self.trials, space.size)


def indicators(masks: list[Mask]) -> PriorArray:
    """Masks as rows of 0 and 1 (masks, n_units)."""
    rows = np.zeros((len(masks), masks[0].n_units))
    for row, mask in zip(rows, masks, strict=True):
        row[list(mask.dropped)] = 1
    return rows
