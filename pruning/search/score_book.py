"""Get scores of masks from this cell's journal or other cells' journals, or compute them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pruning.core.mask import Mask
from pruning.core.score import Score
from pruning.distributed import collectives
from pruning.objective import Loss
from pruning.search.journal import Journal, KnownScores

# Called after each score, and after each bound of a score. The arguments are the number of masks scored so far, on
# all samples or fewer, the lowest full loss among the masks that remove most blocks, and how many these remove.
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
    """The scores that a search needs, by mask. A score is computed only if no cell has computed it."""

    losses: Losses
    known: KnownScores
    watch: Watch
    asked: dict[Mask, None] = field(default_factory=dict)
    count: float = 0.0
    best: dict[int, float] = field(default_factory=dict)  # number of removed blocks -> lowest full loss

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
        self.look_up(masks, wanted)
        missing: dict[int, dict[Mask, None]] = {}
        for mask in masks:
            if (known := self._samples_known(mask)) < wanted:
                missing.setdefault(known, {})[mask] = None
        for known, group in missing.items():
            for mask, terms, seconds in self.losses.part(known, wanted).terms(list(group)):
                self._note(self._joined(mask, terms, seconds))
        return [self.first(self.journal.scores[mask], wanted) for mask in masks]

    def look_up(self, masks: Sequence[Mask], wanted: int) -> None:
        """Note the scores over `wanted` samples that other cells have computed.

        A search that scores whole masks takes no score that a race of another cell has put together from parts: it is
        rounded differently, and the search would depend on which cell ran first.
        """
        unknown = [mask for mask in masks if self._samples_known(mask) < wanted]
        # Files can grow while ranks read them, so all ranks use what the first rank has read.
        for score in collectives.on_first(lambda: self.known.find(unknown)):
            at_once = score.of is None and score.parts == 1
            if at_once or wanted < self.samples or score.mask in self.journal.scores:
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

    def count_asked(self, masks: Sequence[Mask], samples: int | None) -> None:
        """Count the losses that the search asks for, repeats included."""
        self.asked.update(dict.fromkeys(masks))
        self.count += len(masks) * self._wanted(samples) / self.samples

    def _wanted(self, samples: int | None) -> int:
        """The number of samples to score: all if None, else at least `samples` of them, with each kind included."""
        return (
            self.samples
            if samples is None
            else min(max(samples, self.losses.whole.estimate.least), self.samples)
        )

    def _samples_known(self, mask: Mask) -> int:
        """The number of samples on which this cell's journal has the terms of a mask."""
        return len(self.journal.scores[mask].samples) if mask in self.journal.scores else 0

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

    def first(self, score: Score, samples: int) -> Score:
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
        self.progressed()

    def progressed(self) -> None:
        """Tell `watch` how far the search is, once a mask is scored in full."""
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
