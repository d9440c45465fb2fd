"""Get scores of masks from this cell's journal or other cells' journals, or compute them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pruning.algo import Ask
from pruning.core.mask import Mask
from pruning.core.result import DecisionRecord
from pruning.core.score import Score
from pruning.distributed import collectives
from pruning.objective import Loss
from pruning.search.bounding import bounded, lower_bounds, mean_gap
from pruning.search.journal import Journal, KnownScores
from pruning.search.near_ties import Settler
from pruning.search.racing import Raced, Racing
from pruning.search.rising import Rising, View
from pruning.search.significance import decision

# Called after each score. The arguments are the number of masks scored so far, on all samples or fewer, the lowest
# full loss among the masks that remove the most blocks, and how many blocks these masks remove.
Watch = Callable[[int, float, int], None]


class Losses(Protocol):
    """The loss that is minimised, over all samples or a part of them; see `pruning.objective.Calibrated`."""

    @property
    def whole(self) -> Loss:
        """The loss over all samples."""
        ...

    def part(self, start: int, stop: int) -> Loss:
        """The loss over the samples from number `start` to number `stop` - 1."""
        ...


@dataclass
class ScoreBook:
    """The scores that a search needs, by mask. A score is computed only if no cell has computed it.

    If not `bounding`, every loss that is asked for is computed, also if a bound would do.
    """

    losses: Losses
    known: KnownScores
    watch: Watch
    racing: Racing
    settler: Settler
    bounding: bool = True
    asked: dict[Mask, None] = field(default_factory=dict)
    count: float = 0.0
    best: dict[int, float] = field(default_factory=dict)  # number of removed blocks -> lowest full loss
    decisions: list[DecisionRecord] = field(default_factory=list)
    estimated: dict[Mask, float] = field(default_factory=dict)  # losses of masks that are ruled out

    @property
    def journal(self) -> Journal:
        """This cell's journal."""
        return self.known.journal

    @property
    def samples(self) -> int:
        """The number of samples of a full score."""
        return self.losses.whole.estimate.count

    def scores(self, masks: Sequence[Mask], samples: int | None = None) -> list[Score]:
        """Scores over the first `samples` samples (None: all). Only scores that no cell has yet are computed."""
        wanted = self._wanted(samples)
        self._look_up(masks, wanted)
        missing: dict[int, dict[Mask, None]] = {}
        for mask in masks:
            if (known := self._samples_known(mask)) < wanted:
                missing.setdefault(known, {})[mask] = None
        for known, group in missing.items():
            for mask, terms, seconds in self.losses.part(known, wanted).terms(list(group)):
                self._note(self._joined(mask, terms, seconds))
        return [self._first(self.journal.scores[mask], wanted) for mask in masks]

    def _look_up(self, masks: Sequence[Mask], wanted: int) -> None:
        """Note the scores that other cells have computed."""
        unknown = [mask for mask in masks if self._samples_known(mask) < wanted]
        # Files can grow while ranks read them, so all ranks use what the first rank has read.
        for score in collectives.on_first(lambda: self.known.find(unknown)):
            self._note(self._given(score))

    def whole(self, mask: Mask) -> Score:
        """The full score of a mask, scored again if a race has put it together from parts.

        So a result has the same loss with a race and without. The journal keeps the score in parts, which a resumed
        search needs to choose as before.
        """
        (score,) = self.scores([mask])
        if score.parts > 1:
            for _, terms, seconds in self.losses.whole.terms([mask]):
                score = self._score(mask, tuple(terms), score.seconds + seconds)
        return score

    def answer(self, request: Ask) -> list[float]:
        """Losses of the masks of a request, in order.

        If a race or a bound has ruled a mask out, its loss is infinite, or an estimate if the request asks for
        `estimates`. If only the best masks matter, near ties are settled first; see `near_ties.py`.
        """
        self.asked.update(dict.fromkeys(request.masks))
        self.count += len(request.masks) * self._wanted(request.samples) / self.samples
        if request.samples is not None or request.best is None:
            return [score.loss for score in self.scores(request.masks, request.samples)]
        losses = self._chosen(request, request.best)
        return [losses.get(mask, math.inf) for mask in [*request.known, *request.masks]]

    def _chosen(self, request: Ask, best: int) -> dict[Mask, float]:
        """Race the masks of a request, settle near ties, note the decision. Returns the losses of those left."""
        estimate, rising = self.losses.whole.estimate, None
        if request.rise is not None:
            rising = Rising(request.rise, self.scores([request.rise.base])[0], estimate)
        view: View = (lambda score: score) if rising is None else rising.view
        masks = [*(mask for mask in request.known if self._whole(mask)), *request.masks]
        bounds = self._bounds(masks, request, best)
        raced = self._raced(masks, bounds, best, view)
        finished = raced.finished
        losses = self.settler.losses(list(finished.values()), best, rising)
        settled = [replace(score, loss=losses[score.mask]) for score in finished.values()]
        rest = [mask for mask in [*request.known, *request.masks] if mask not in finished]
        if request.known and self.decisions:
            self.decisions.pop()  # this request goes on with the choice of the last one
        out = [view(self.journal.scores[mask]) for mask in rest if mask in self.journal.scores]
        skipped = request.rest + len(rest) - len(out)
        if (record := decision(settled, out, best, estimate)) is not None:
            self.decisions.append(record | {"skipped": skipped} if skipped else record)
        if rising is not None:
            losses = rising.losses([self.journal.scores[mask] for mask in finished], losses)
        return losses if not request.estimates else self._estimates(request, raced, bounds) | losses

    def _raced(self, masks: Sequence[Mask], bounds: Mapping[Mask, Score], best: int, view: View) -> Raced:
        """Score those masks that neither bounds nor a race rule out."""

        def scorer(masks: Sequence[Mask], samples: int | None = None) -> list[Score]:
            return [view(score) for score in self.scores(masks, samples)]

        if not bounds:
            return self.racing.race(masks, best, self.losses.whole.estimate, scorer)
        finished = bounded({m: view(bound) for m, bound in bounds.items()}, best, scorer, self.settler.reach)
        return Raced(finished, {mask: 0 for mask in masks if mask not in finished})

    def _bounds(self, masks: Sequence[Mask], request: Ask, best: int) -> dict[Mask, Score]:
        """Lower bounds of the scores of a request's masks, or full scores that are known; empty without bounds.

        In a race they are of no use: few candidates are ruled out earlier by the bounds of a part of the samples.
        """
        loss, known = self.losses.whole, {m: self.journal.scores[m] for m in request.known if self._whole(m)}
        if loss.bounds is None or not self.bounding or self.racing.delta is not None or best >= len(masks):
            return {}
        # If it could change the search, what is ruled out must not depend on other cells or on an earlier run.
        if not request.estimates:
            self._look_up(masks, self.samples)
            others = [m for m in masks if self._whole(m) and m not in self.known.bounds.scores]
            known |= {mask: self.journal.scores[mask] for mask in others}
        found = lower_bounds([m for m in masks if m not in known], loss, self.known, not request.estimates)
        return {mask: (known | found)[mask] for mask in masks} if found else {}

    def _estimates(self, request: Ask, raced: Raced, bounds: Mapping[Mask, Score]) -> dict[Mask, float]:
        """Estimates of the losses of masks that are ruled out, in this request or those that it goes on with.

        If a mask is ruled out by its bound, this is as far below its loss as those of other masks, on average. In a
        race, the mask and the best one are compared on the samples of which the mask has terms.
        """
        finished = [self.journal.scores[mask] for mask in raced.finished]
        best, gap = min(finished, key=lambda score: score.loss), mean_gap(finished, self.known.bounds.scores)
        if not request.known:
            self.estimated.clear()
        for mask, samples in raced.out.items():
            if not samples:
                self.estimated[mask] = bounds[mask].loss + gap
                continue
            terms = zip(self._terms(mask)[:samples], best.samples[:samples], strict=True)
            more = self.losses.whole.estimate.mean([term - other for term, other in terms])
            self.estimated[mask] = best.loss + more
        return self.estimated | {m: self.journal.scores[m].loss for m in request.known if self._whole(m)}

    def _wanted(self, samples: int | None) -> int:
        """The number of samples to score: all if None, else at least `samples` of them, with each kind included."""
        return (
            self.samples
            if samples is None
            else min(max(samples, self.losses.whole.estimate.least), self.samples)
        )

    def _samples_known(self, mask: Mask) -> int:
        """The number of samples on which this cell's journal has the terms of a mask."""
        return len(self._terms(mask))

    def _whole(self, mask: Mask) -> bool:
        """Whether this cell's journal has the full score of a mask."""
        return self._samples_known(mask) == self.samples

    def _terms(self, mask: Mask) -> Sequence[float]:
        return self.journal.scores[mask].samples if mask in self.journal.scores else ()

    def _joined(self, mask: Mask, terms: Sequence[float], seconds: float) -> Score:
        """The known score of a mask, extended by new terms and by the seconds that they took."""
        old = self.journal.scores.get(mask)
        if old is None:
            return self._score(mask, tuple(terms), seconds)
        joined = self._score(mask, (*old.samples, *terms), old.seconds + seconds)
        return replace(joined, parts=old.parts + 1)

    def _given(self, score: Score) -> Score:
        """A score from another cell, with `seconds` set to the time that this cell itself has spent on the mask."""
        old = self.journal.scores.get(score.mask)
        return score if old is None else replace(score, seconds=old.seconds)

    def _first(self, score: Score, samples: int) -> Score:
        """A score cut to its first `samples` samples."""
        if len(score.samples) == samples:
            return score
        return self._score(score.mask, score.samples[:samples], score.seconds)

    def _score(self, mask: Mask, terms: tuple[float, ...], seconds: float) -> Score:
        partial = self.samples if len(terms) < self.samples else None
        return Score(mask, self.losses.whole.estimate.mean(terms), terms, seconds, partial)

    def _note(self, score: Score) -> None:
        self.journal.add(score)
        if score.of is None:
            size = len(score.mask.dropped)
            self.best[size] = min(score.loss, self.best.get(size, score.loss))
        if self.best:
            size = max(self.best)
            self.watch(len(self.journal.scores), self.best[size], size)

    def paid(self) -> tuple[float, float]:
        """Of the requested losses, the number that this cell has computed and the number that others have computed.

        A loss over a fraction of the samples counts as that fraction.
        """
        scores = self.journal.scores
        total = math.fsum(len(scores[mask].samples) for mask in self.asked if mask in scores)
        paid = math.fsum(self.journal.paid.get(mask, 0) for mask in self.asked)
        return paid / self.samples, (total - paid) / self.samples
