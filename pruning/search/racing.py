"""Racing: stop scoring candidates that, at a stated confidence, are not among the best.

The candidates are ranked by loss after n samples, for a few increasing numbers n. Each such ranking is a look. Only
the `best` candidates of lowest loss matter; let b be the worst of these. Each candidate c that ranks after b is
compared with b by the paired differences of their terms, d_s = t_s(c) - t_s(b). If there are m candidates, and r
looks before the last sample, c is ruled out if

    mean(d)  >  q * se(d)        q: the 1 - delta / (r * (m - best)) quantile of Student's t

The aim is to compare the candidates on all S samples, not on an infinite population. The samples are in random order
(`Samples.shuffled`). So the standard error se includes the finite-population correction sqrt(1 - n / S). A truly best
candidate is lost only through a false alarm. There are at most r * (m - best) comparisons, so by Bonferroni's
inequality the probability of a false alarm is at most about delta per batch. The bound is only "about" delta because
the terms are not normally distributed. For the same reason, no look is taken before `first` samples.

The usual successive halving compares unpaired means. It often loses the winner, because a loss varies less between
candidates than between samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pruning.core.errors import InputError
from pruning.core.estimate import Estimate
from pruning.core.mask import Mask
from pruning.core.score import Score

# scorer(masks, n): the scores of the masks, in their order, over the first n samples.
Scorer = Callable[[Sequence[Mask], int], Sequence[Score]]


@dataclass(frozen=True)
class Raced:
    """The full scores of the masks that are left.

    `out` says on how many samples each of the others was scored before it was ruled out: 0 if that took only a bound.
    """

    finished: dict[Mask, Score]
    out: dict[Mask, int]


@dataclass
class Racing:
    """Settings of a race; if `delta` is None, racing is off.

    The first look is taken after `first` samples. From one look to the next, the number of samples grows by a factor
    of 1.5 (rounded down).
    """

    delta: float | None = None
    first: int = 8

    def check(self) -> None:
        """Raise InputError if a number is out of range.

        This is a separate method because OmegaConf does not call __init__.
        """
        if self.delta is not None and not 0 < self.delta < 1:
            raise InputError(
                f"racing.delta={self.delta:g} is not between 0 and 1: choose a probability such as 0.01, or null."
            )
        if self.first < 2:
            raise InputError(f"racing.first={self.first} is too few to estimate an error: choose at least 2.")

    def looks(self, samples: int) -> list[int]:
        """The numbers of samples after which candidates can be ruled out."""
        looks, following = [], self.first
        while following < samples:
            looks.append(following)
            following = following * 3 // 2
        return looks

    def race(self, masks: Sequence[Mask], best: int, estimate: Estimate, scorer: Scorer) -> Raced:
        """Score all masks that are not ruled out. At least `best` of them are left (or all, if fewer)."""
        alive, out = list(masks), dict[Mask, int]()
        looks = self.looks(estimate.count) if self.delta is not None and best < len(masks) else []
        for samples in looks:
            scores = scorer(alive, samples)
            alive = self._survivors(scores, best, estimate, len(masks) - best, len(looks))
            left = set(alive)
            out |= {score.mask: len(score.samples) for score in scores if score.mask not in left}
            if len(alive) == best:
                break
        return Raced({score.mask: score for score in scorer(alive, estimate.count)}, out)

    def _survivors(
        self, scores: Sequence[Score], best: int, estimate: Estimate, others: int, looks: int
    ) -> list[Mask]:
        """The masks that one look does not rule out. All `scores` are over the same samples."""
        from scipy.stats import t

        assert self.delta is not None
        ranked = sorted(scores, key=lambda score: score.loss)
        last, kept = ranked[best - 1], ranked[:best]
        for score in ranked[best:]:
            terms = estimate.differences(score.samples, last.samples)
            error, freedom = estimate.error(terms, whole=estimate.count), estimate.freedom(terms)
            # With 0 degrees of freedom, the error is unknown and nothing is ruled out.
            if freedom == 0 or estimate.mean(terms) <= error * t.isf(self.delta / (looks * others), freedom):
                kept.append(score)
        left = {score.mask for score in kept}
        return [score.mask for score in scores if score.mask in left]
