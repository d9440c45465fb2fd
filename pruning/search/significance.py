"""Test whether the winner of a search is significantly better than the runner-up and the other masks.

A loss is a mean over samples. Two masks are compared by the paired differences of their terms, over the samples on
which both were scored. If samples disagree about which mask is better, the difference of the means can be chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.core.records import ComparisonRecord, DecisionRecord, MarginsRecord
from pruning.core.scoring import Estimate, Score, plus_minus

# Significance level: a mask that is not significantly worse than the winner at this level is a tie.
LEVEL = 0.05
LISTED = 100  # a result lists at most this many ties, but always states the exact number of all ties


@dataclass(frozen=True)
class Comparison:
    """A mask compared with a better one over `samples` samples.

    `difference` is the mean paired difference of their terms (this mask minus the better one), `error` its standard
    error, and `freedom` the number of degrees of freedom of `error`.
    """

    score: Score
    difference: float
    error: float
    freedom: float
    samples: int

    @property
    def p_value(self) -> float:
        """The probability of a difference at least this large if the mask is not worse: a one-sided Student's t test.

        If there is only one sample, or only one sample of a kind, no error can be estimated, and the p-value is 1.
        """
        from scipy.special import stdtr  # fifty times faster than scipy.stats.t for single numbers

        if self.freedom == 0:
            return 1.0
        if self.error == 0:
            return 1.0 if self.difference <= 0 else 0.0
        return float(stdtr(self.freedom, -self.difference / self.error))

    def to_json(self) -> ComparisonRecord:
        """The record of this comparison for a result."""
        return {
            "dropped": self.score.mask.listed(),
            "difference": self.difference,
            "standard_error": self.error if self.freedom else None,
            "samples": self.samples,
        }


def compare(better: Score, score: Score, estimate: Estimate) -> Comparison:
    """Compare a mask with a better mask over the samples on which both were scored."""
    count = min(len(better.samples), len(score.samples))
    terms = estimate.differences(score.samples[:count], better.samples[:count])
    return Comparison(score, estimate.mean(terms), estimate.error(terms), estimate.freedom(terms), count)


def margins(winner: Score, others: Sequence[Score], estimate: Estimate) -> MarginsRecord:
    """Find the runner-up and the ties of a winner among `others`, which remove the same number of blocks.

    A tie is a mask that is not significantly worse at LEVEL, after Holm's correction for the number of masks
    compared. The runner-up is the mask whose loss exceeds the winner's loss least, among the masks scored on all
    samples or, if there are none, among those that a race or a search stage scored on a part of the samples.
    """
    compared = [compare(winner, score, estimate) for score in others if score.mask != winner.mask]
    compared.sort(key=lambda comparison: (comparison.score.of is not None, comparison.difference))
    if not compared:
        return {"compared": 0, "runner_up": None, "tied": 0, "ties": []}
    corrected = holm([comparison.p_value for comparison in compared])
    ties = [c for c, p in zip(compared, corrected, strict=True) if p >= LEVEL]
    return {
        "compared": len(compared),
        "runner_up": {**compared[0].to_json(), "p_corrected": corrected[0]},
        "tied": len(ties),
        "ties": [comparison.score.mask.listed() for comparison in ties[:LISTED]],
    }


def certainty(found: MarginsRecord) -> str:
    """How sure the choice of a mask is, in a few words: the runner-up, the ties, and choices below the rounding."""
    if (second := found["runner_up"]) is None:
        return "no other mask of this size was scored"
    near = found.get("near_ties", {"open": 0})["open"]
    return (
        f"runner-up {' '.join(map(str, second['dropped']))} at {second['difference']:+.4f} "
        f"{plus_minus(second['standard_error'])}, {found['tied']} of {found['compared']} tied"
        + (f", {near} choices closer than the rounding" if near else "")
    )


def decision(
    finished: Sequence[Score], out: Sequence[Score], best: int, estimate: Estimate
) -> DecisionRecord | None:
    """Compare the worst of the `best` chosen masks with the rejected mask whose loss exceeds it least.

    The masks in `finished` were scored in full; the masks in `out` were ruled out by a race. Returns None if all
    masks are chosen.
    """
    count = len(finished) + len(out)
    if best >= count:
        return None
    ranked = sorted(finished, key=lambda score: score.loss)
    chosen = ranked[best - 1]
    rejected = (compare(chosen, score, estimate) for score in [*ranked[best:], *out])
    following = min(rejected, key=lambda comparison: comparison.difference)
    return {"best": best, "of": count, "chosen": chosen.mask.listed(), "next": following.to_json()}


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons (Holm 1979). The results are in the order of the arguments."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = highest
    return corrected
