"""How far apart masks are, given that their losses are means over samples: the winner, its runner-up, its ties.

Two masks are compared by the paired differences of their terms, over the samples that both were scored on; a loss
says little about which is better where its samples disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.core.estimate import Estimate
from pruning.core.result import ComparisonRecord, DecisionRecord, MarginsRecord
from pruning.core.score import Score

LEVEL = 0.05  # of the tests that tell a tie
LISTED = 100  # masks that are written into a result; the number of ties is always exact


@dataclass(frozen=True)
class Comparison:
    """A mask against a better one: the mean paired difference of their losses, its standard error and the degrees of
    freedom of that, over how many samples.
    """

    score: Score
    difference: float
    error: float
    freedom: float
    samples: int

    @property
    def p_value(self) -> float:
        """One-sided, by Student's t: how often a mask that is no worse would look so much worse.

        1 where one sample, or one of a kind, is all there is: it says nothing about others.
        """
        from scipy.stats import t

        if self.freedom == 0:
            return 1.0
        if self.error == 0:
            return 1.0 if self.difference <= 0 else 0.0
        return float(t.sf(self.difference / self.error, self.freedom))

    def to_json(self) -> ComparisonRecord:
        """This comparison, as a result holds it."""
        return {
            "dropped": list(self.score.mask.dropped),
            "difference": self.difference,
            "standard_error": self.error,
            "samples": self.samples,
        }


def compare(better: Score, score: Score, estimate: Estimate) -> Comparison:
    """A mask against a better one, over the samples that both know."""
    samples = min(len(better.samples), len(score.samples))
    terms = estimate.differences(score.samples[:samples], better.samples[:samples])
    return Comparison(score, estimate.mean(terms), estimate.error(terms), estimate.freedom(terms), samples)


def margins(winner: Score, others: Sequence[Score], estimate: Estimate) -> MarginsRecord:
    """The runner-up and the ties of a winner, among other masks of as many blocks.

    A tie is a mask that is not significantly worse at 0.05, after Holm's correction for the number compared. The
    runner-up is the nearest of those that were scored on all samples: what was seen on a few and left, by a race or
    by a stage of a search, is named only where nothing else is.
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
    """A choice of the best of some masks, as a search makes it: the last that was in against the first that was
    out, be it one that was scored in full or one that a race ruled out.
    """
    if not best < len(finished) + len(out):
        return None
    ranked = sorted(finished, key=lambda score: score.loss)
    chosen, others = ranked[best - 1], [*ranked[best:], *out]
    nearest = min((compare(chosen, score, estimate) for score in others), key=lambda c: c.difference)
    of = len(finished) + len(out)
    return {"best": best, "of": of, "chosen": list(chosen.mask.dropped), "next": nearest.to_json()}


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in their order (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = highest
    return corrected
