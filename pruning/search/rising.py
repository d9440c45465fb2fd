"""Compare scores by the rise of the loss per cost, so that races, near ties and tests see rises in place of losses.

A search on a budget ranks masks by (loss - loss of a base mask) / cost. Each term of a score is changed in the same
way, so standard errors and paired differences follow. Costs are counted in multiples of the least cost of a request.
So a rise is never larger than the difference of losses that it comes from, and tolerances of losses hold for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pruning.algo import Rise
from pruning.core.estimate import Estimate
from pruning.core.mask import Mask
from pruning.core.score import Score

View = Callable[[Score], Score]


@dataclass(frozen=True)
class Rising:
    """Rises per cost since a base mask, whose full score is `base`."""

    rise: Rise
    base: Score
    estimate: Estimate

    @property
    def unit(self) -> float:
        """The least cost of the masks that are compared."""
        return min(self.rise.costs.values())

    def view(self, score: Score) -> Score:
        """The score of a mask with rises per cost in place of losses."""
        share = self.unit / self.rise.costs[score.mask]
        before = self.base.samples[: len(score.samples)]
        terms = tuple((term - old) * share for term, old in zip(score.samples, before, strict=True))
        base = self.base.loss if score.of is None else self.estimate.mean(before)
        return replace(score, loss=self.rise.rate(score.mask, score.loss, base) * self.unit, samples=terms)

    def losses(self, scores: Sequence[Score], settled: Mapping[Mask, float]) -> dict[Mask, float]:
        """Losses of masks whose rises per cost are in the order of `settled`, which raised some of the rises.

        A rise that was not raised belongs to the mask's own loss.
        """
        losses, last = {}, -math.inf
        for score in sorted(scores, key=lambda score: settled[score.mask]):
            mask, loss = score.mask, score.loss
            if settled[mask] > self.view(score).loss:
                loss = max(loss, self.base.loss + settled[mask] * self.rise.costs[mask] / self.unit)
                while self.rise.rate(mask, loss, self.base.loss) <= last:
                    loss = math.nextafter(loss, math.inf)
            losses[mask], last = loss, max(last, self.rise.rate(mask, loss, self.base.loss))
        return losses
