"""Racing: stop scoring a candidate once it is known, with stated confidence, not to be among those that matter.

After each of a few growing numbers n of samples, every candidate c is compared with the candidate b that stands at
the last place that matters, by the paired differences of their terms, d_s = t_s(c) - t_s(b). With m candidates of
which `best` matter, and r looks before the last sample, c is out where

    mean(d)  >  q * se(d)        q: the 1 - delta / (r * (m - best)) quantile of Student's t

The question is not what an infinite population would say but which candidates win on all S samples, and their order
is random (`Samples.shuffled`), so se carries the correction for a finite population, sqrt(1 - n / S). A candidate
that belongs to the best is lost by a false alarm against one of the m - best others at one of the looks: by
Bonferroni's inequality with a probability of at most about delta a batch ("about": terms are not normal, so no look
is taken before `first` samples).

Means of unpaired halves, the usual successive halving, lose the winner often: candidates differ by less than
samples do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pruning.core.errors import InputError
from pruning.core.estimate import Estimate
from pruning.core.mask import Mask
from pruning.core.score import Score

# Scores of masks, in their order, over the first so many samples.
Scorer = Callable[[Sequence[Mask], int], Sequence[Score]]


@dataclass
class Racing:
    """Off where `delta` is None. `first` is the number of samples before the first look; it grows by half from look
    to look.
    """

    delta: float | None = None
    first: int = 8

    def check(self) -> None:
        """Raise InputError for a number that makes no sense. OmegaConf builds this without calling __init__."""
        if self.delta is not None and not 0 < self.delta < 1:
            raise InputError(
                f"racing.delta={self.delta:g} is no probability: choose one such as 0.01, or null."
            )
        if self.first < 2:
            raise InputError(f"racing.first={self.first} is too few to estimate an error: choose at least 2.")

    def looks(self, samples: int) -> list[int]:
        """After how many samples candidates may be dropped."""
        looks, following = [], self.first
        while following < samples:
            looks.append(following)
            following = following * 3 // 2
        return looks

    def race(self, masks: Sequence[Mask], best: int, estimate: Estimate, scorer: Scorer) -> dict[Mask, Score]:
        """Full scores of the masks that are not ruled out; always at least `best` of them."""
        alive = list(masks)
        looks = self.looks(estimate.count) if self.delta is not None and best < len(masks) else []
        for samples in looks:
            scores = scorer(alive, samples)
            alive = self._survivors(scores, best, estimate, len(masks) - best, len(looks))
            if len(alive) == best:
                break
        return {score.mask: score for score in scorer(alive, estimate.count)}

    def _survivors(
        self, scores: Sequence[Score], best: int, estimate: Estimate, others: int, looks: int
    ) -> list[Mask]:
        """The masks that are not ruled out by a look at their scores over the same samples."""
        from scipy.stats import t

        assert self.delta is not None
        ranked = sorted(scores, key=lambda score: score.loss)
        last, kept = ranked[best - 1], ranked[:best]
        for score in ranked[best:]:
            terms = estimate.differences(score.samples, last.samples)
            error, freedom = estimate.error(terms, whole=estimate.count), estimate.freedom(terms)
            # Without a degree of freedom no error is known, and nothing is ruled out.
            if freedom == 0 or estimate.mean(terms) <= error * t.isf(self.delta / (looks * others), freedom):
                kept.append(score)
        return [score.mask for score in scores if score in kept]
