"""Answer requests. If only the best masks matter, rule others out by bounds or in a race, and settle near ties."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pruning.algo import Ask
from pruning.core.estimate import Estimate
from pruning.core.margins_record import DecisionRecord
from pruning.core.mask import Mask
from pruning.core.score import Score
from pruning.search.bounding import SLACK, bounded, lower_bounds, mean_gap
from pruning.search.near_ties import Settler
from pruning.search.racing import Raced, Racing
from pruning.search.rising import Rising
from pruning.search.score_book import ScoreBook
from pruning.search.significance import decision


@dataclass
class Choice:
    """Answers the requests of a search, and notes how it has decided.

    If not `bounding`, every loss that is asked for is computed, also if a bound would do. A request can go on with
    an earlier one, as in lazy rounds. `ruled_out` has the masks that the requests of such a round have ruled out, and
    on how many samples each was scored. What is in the journal does not say that: an earlier run or another cell may
    have scored a mask on more samples.
    """

    book: ScoreBook
    racing: Racing
    settler: Settler
    bounding: bool = True
    decisions: list[DecisionRecord] = field(default_factory=list)
    ruled_out: dict[Mask, int] = field(default_factory=dict)
    estimated: dict[Mask, float] = field(default_factory=dict)

    def answer(self, request: Ask) -> list[float]:
        """Losses of the masks of a request, in order.

        If a race or a bound has ruled a mask out, its loss is infinite, or an estimate if the request asks for
        `estimates`. If only the best masks matter, near ties are settled first; see `near_ties.py`.
        """
        self.book.count_asked(request.masks, request.samples)
        if request.samples is not None or request.best is None:
            return [score.loss for score in self.book.scores(request.masks, request.samples)]
        losses = self._losses(request, request.best)
        return [losses.get(mask, math.inf) for mask in [*request.known, *request.masks]]

    def _losses(self, request: Ask, best: int) -> dict[Mask, float]:
        """The losses by which the `best` masks of a request are chosen. Masks that are ruled out have none.

        If the request asks for estimates, they have an estimate, which is above the losses of the chosen ones.
        """
        if not request.known:
            self.ruled_out, self.estimated = {}, {}
        rising = None
        if request.rise is not None:
            rising = Rising(request.rise, self._whole(request.rise.base), self.estimate)
        known = [mask for mask in request.known if mask not in self.ruled_out]
        bounds = self._bounds(known, request, best)
        raced = self._raced([*known, *request.masks], bounds, best, rising)
        self.ruled_out |= raced.out
        rises = self.settler.losses(list(raced.finished.values()), best, rising)
        self._record(request, best, [replace(s, loss=rises[s.mask]) for s in raced.finished.values()], rising)
        losses = rises
        if rising is not None:
            losses = rising.losses([self._whole(mask) for mask in raced.finished], rises)
        if request.estimates:
            self._estimate(raced, bounds, known)
            floor = _floor(losses, best, rising)
            losses |= {mask: max(loss, floor(mask)) for mask, loss in self.estimated.items()}
        return losses

    def _raced(
        self, masks: Sequence[Mask], bounds: Mapping[Mask, Score], best: int, rising: Rising | None
    ) -> Raced:
        """Score those masks that neither bounds nor a race rule out."""

        def scorer(masks: Sequence[Mask], samples: int | None = None) -> list[Score]:
            scores = self.book.scores(masks, samples)
            return scores if rising is None else [rising.view(score) for score in scores]

        if not bounds:
            return self.racing.race(masks, best, self.estimate, scorer)
        if rising is not None:
            bounds = {mask: rising.view(bound) for mask, bound in bounds.items()}

        def slack(worst: Score) -> float:
            return max(SLACK, self.settler.reach_at(worst, rising))

        finished = bounded(bounds, best, scorer, slack)
        return Raced(finished, {mask: 0 for mask in masks if mask not in finished})

    def _bounds(self, known: Sequence[Mask], request: Ask, best: int) -> dict[Mask, Score]:
        """Lower bounds of the scores of a request's masks, or full scores that are known; empty without bounds.

        In a race they are of no use: few candidates are ruled out earlier by the bounds of a part of the samples.
        """
        loss, masks = self.book.losses.whole, [*known, *request.masks]
        if loss.bounds is None or not self.bounding or self.racing.delta is not None or best >= len(masks):
            return {}
        own, scores = self.book.known.bounds.scores, {mask: self._whole(mask) for mask in known}
        # Estimates must not depend on what other cells have scored; without estimates, the choice does not.
        if not request.estimates:
            unknown = [mask for mask in masks if mask not in own]
            self.book.look_up(unknown, self.book.samples)
            journal = self.book.journal.scores
            scores |= {m: journal[m] for m in unknown if m in journal and journal[m].of is None}
        missing = [mask for mask in masks if mask not in scores]
        share, noted = not request.estimates, self.book.progressed
        found = lower_bounds(missing, loss, self.book.known, share, noted)
        return {mask: (scores | found)[mask] for mask in masks} if found else {}

    def _record(self, request: Ask, best: int, settled: Sequence[Score], rising: Rising | None) -> None:
        """Note the decision, in place of that of the request which this one goes on with."""
        if request.known and self.decisions:
            self.decisions.pop()
        journal = self.book.journal.scores
        out = [self.book.first(journal[mask], samples) for mask, samples in self.ruled_out.items() if samples]
        skipped = request.rest + len(self.ruled_out) - len(out)
        out = out if rising is None else [rising.view(score) for score in out]
        if (record := decision(settled, out, best, self.estimate)) is not None:
            self.decisions.append(record | {"skipped": skipped} if skipped else record)

    def _estimate(self, raced: Raced, bounds: Mapping[Mask, Score], known: Sequence[Mask]) -> None:
        """Estimate the losses of masks that a request has ruled out.

        If a mask is ruled out by its bound, this is as far below its loss as those of other masks, on average. In a
        race, the mask and the best one are compared on the samples on which the mask was scored.
        """
        finished, whole = [self._whole(mask) for mask in raced.finished], set(known)
        gap = mean_gap(finished, self.book.known.bounds.scores)
        best = min(finished, key=lambda score: score.loss)
        for mask, samples in raced.out.items():
            if mask in whole:  # scored in full by an earlier request of this round, and now ruled out
                self.estimated[mask] = self._whole(mask).loss
            elif not samples:
                self.estimated[mask] = bounds[mask].loss + gap
            else:
                terms = self.book.journal.scores[mask].samples[:samples]
                differences = [term - other for term, other in zip(terms, best.samples, strict=False)]
                self.estimated[mask] = best.loss + self.estimate.mean(differences)

    @property
    def estimate(self) -> Estimate:
        """How a loss follows from its terms."""
        return self.book.losses.whole.estimate

    def _whole(self, mask: Mask) -> Score:
        (score,) = self.book.scores([mask])
        return score


def _floor(losses: Mapping[Mask, float], best: int, rising: Rising | None) -> Callable[[Mask], float]:
    """The lowest loss of each mask that is not among the `best`, of which there are the `losses`."""
    if rising is None:
        worst = sorted(losses.values())[min(best, len(losses)) - 1]
        return lambda _: math.nextafter(worst, math.inf)
    rates = sorted(rising.rise.rate(mask, loss, rising.base.loss) for mask, loss in losses.items())
    rate = rates[min(best, len(rates)) - 1]

    def lowest(mask: Mask) -> float:
        loss = rising.base.loss + math.nextafter(rate, math.inf) * rising.rise.costs[mask]
        while rising.rise.rate(mask, loss, rising.base.loss) <= rate:
            loss = math.nextafter(loss, math.inf)
        return loss

    return lowest
