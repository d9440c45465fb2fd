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

If terms have lower bounds that cost less (`bounding.py`), c is tested by them first: terms that are too low can only
make c look better. Each candidate can then be tested twice at a look, so q allows for twice as many tests.

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
from pruning.search.bounding import SLACK, Lower, RuledOut, bounded

# scorer(masks, n): the scores of the masks, in their order, over the first n samples.
Scorer = Callable[[Sequence[Mask], int], Sequence[Score]]


@dataclass(frozen=True)
class Raced:
    """The full scores of the masks that are left, and on how many samples the others were compared.

    `out` gives two numbers for each mask that was ruled out: of how many first samples its terms were used, and of
    how many its terms or their bounds.
    """

    finished: dict[Mask, Score]
    out: dict[Mask, tuple[int, int]]


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

    def race(
        self,
        masks: Sequence[Mask],
        best: int,
        estimate: Estimate,
        scorer: Scorer,
        lower: Lower | None = None,
        slack: float = SLACK,
    ) -> Raced:
        """Score all masks that are not ruled out. At least `best` of them are left (or all, if fewer).

        With `lower`, masks that their bounds rule out are not scored. In the end, these are masks whose bound is more
        than `slack` above the losses of the best.
        """
        alive, start, out = list(masks), 0, dict[Mask, tuple[int, int]]()
        looks = self.looks(estimate.count) if self.delta is not None and best < len(masks) else []
        tests = len(looks) * (len(masks) - best) * (1 if lower is None else 2)
        for samples in looks:

            def worse(score: Score, last: Score) -> bool:
                return self._worse(score, last, estimate, tests)

            scores = _scores(alive, (start, samples), best, scorer, lower, worse)
            scored, left = {score.mask for score in scores}, _survivors(scores, best, worse)
            out |= {
                mask: (samples if mask in scored else start, samples) for mask in alive if mask not in left
            }
            alive, start = left, samples
            if len(alive) == best:
                break

        def above(bound: Score, last: Score) -> bool:
            return bound.loss > last.loss + slack

        scores = _scores(alive, (start, estimate.count), best, scorer, lower, above)
        finished = {score.mask: score for score in scores}
        out |= {mask: (start, estimate.count) for mask in alive if mask not in finished}
        return Raced(finished, out)

    def _worse(self, score: Score, last: Score, estimate: Estimate, tests: int) -> bool:
        """Whether a mask is significantly worse than another, if so many `tests` are made."""
        from scipy.stats import t

        assert self.delta is not None
        terms = estimate.differences(score.samples, last.samples)
        error, freedom = estimate.error(terms, whole=estimate.count), estimate.freedom(terms)
        # With 0 degrees of freedom, the error is unknown and nothing is ruled out.
        return freedom > 0 and bool(estimate.mean(terms) > error * t.isf(self.delta / tests, freedom))


def _scores(
    masks: Sequence[Mask],
    samples: tuple[int, int],
    best: int,
    scorer: Scorer,
    lower: Lower | None,
    ruled_out: RuledOut,
) -> list[Score]:
    """Scores over the first samples[1] samples, of all masks or of those that are not ruled out by bounds."""
    bounds = lower(masks, *samples) if lower is not None and best < len(masks) else {}
    if not bounds:
        return list(scorer(masks, samples[1]))
    return list(bounded(bounds, best, lambda left: scorer(left, samples[1]), ruled_out).values())


def _survivors(scores: Sequence[Score], best: int, worse: RuledOut) -> list[Mask]:
    """The masks that one look does not rule out. All `scores` are over the same samples."""
    ranked = sorted(scores, key=lambda score: score.loss)
    last, kept = ranked[best - 1], ranked[:best]
    kept += [score for score in ranked[best:] if not worse(score, last)]
    return [score.mask for score in scores if score in kept]
