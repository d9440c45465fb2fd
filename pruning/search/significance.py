"""Test whether the winner of a search is significantly better than its runner-up and the other masks.

A loss is a mean over samples. Two masks are compared by the paired differences of their terms, over the samples on
which both were scored. If samples disagree about which mask is better, the difference of the means can be chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.core.estimate import Estimate
from pruning.core.result import ComparisonRecord, DecisionRecord, MarginsRecord
from pruning.core.score import Score

LEVEL = 0.05  # significance level: a mask that is not significantly worse than the winner is a tie
LISTED = 100  # a result lists at most this many ties; their number is always exact


@dataclass(frozen=True)
class Comparison:
    """A mask compared with a better one over `samples` samples.

    `difference` is the mean paired difference of their losses, `error` its standard error, and `freedom` the degrees
    of freedom of that error.
    """

    score: Score
    difference: float
    error: float
    freedom: float
    samples: int

    @property
    def p_value(self) -> float:
        """One-sided, by Student's t: the probability of a difference this large if the mask is not worse.

        It is 1 if there is only one sample, or only one sample of a kind, because no error can then be estimated.
        """
        from scipy.stats import t

        if self.freedom == 0:
            return 1.0
        if self.error == 0:
            return 1.0 if self.difference <= 0 else 0.0
        return float(t.sf(self.difference / self.error, self.freedom))

    def to_json(self) -> ComparisonRecord:
        """This comparison as it is written into a result."""
        return {
            "dropped": list(self.score.mask.dropped),
            "difference": self.difference,
            "standard_error": self.error,
            "samples": self.samples,
        }


def compare(better: Score, score: Score, estimate: Estimate) -> Comparison:
    """Compare a mask with a better one over the samples that both were scored on."""
    samples = min(len(better.samples), len(score.samples))
    terms = estimate.differences(score.samples[:samples], better.samples[:samples])
    return Comparison(score, estimate.mean(terms), estimate.error(terms), estimate.freedom(terms), samples)


def margins(winner: Score, others: Sequence[Score], estimate: Estimate) -> MarginsRecord:
    """The runner-up and the ties of a winner among the other masks that remove as many blocks.

    A tie is a mask that is not significantly worse at 0.05, after Holm's correction for the number of masks compared.
    The runner-up is the mask with the nearest loss among those scored on all samples. If there is none, it is the
    nearest of the masks that a race or a search stage scored on a part of the samples.
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
        "ties": [list(comparison.score.mask.dropped) for comparison in ties[:LISTED]],
    }


def decision(
    finished: Sequence[Score], out: Sequence[Score], best: int, estimate: Estimate
) -> DecisionRecord | None:
    """A search's choice of its `best` masks: the last mask chosen, compared with the nearest mask not chosen.

    `finished` were scored in full, `out` were ruled out by a race. None if all masks are chosen.
    """
    if not best < len(finished) + len(out):
        return None
    ranked = sorted(finished, key=lambda score: score.loss)
    chosen, others = ranked[best - 1], [*ranked[best:], *out]
    nearest = min((compare(chosen, score, estimate) for score in others), key=lambda c: c.difference)
    of = len(finished) + len(out)
    return {"best": best, "of": of, "chosen": list(chosen.mask.dropped), "next": nearest.to_json()}


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for multiple comparisons, in the order given (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = highest
    return corrected
