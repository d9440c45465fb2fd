"""Settle near ties in float32.

In bfloat16, a loss depends on the order in which a processor adds, so another processor computes a slightly different
loss. If two masks differ by less than that, the two processors can choose different masks, and all later choices
follow. Such masks are scored again in float32, where rounding is 10,000 times smaller, and the search gets losses in
the order of the float32 losses.

How far rounding moves a difference of two losses is measured. For each mask with both losses, let d_s be the
difference of the two terms of sample s. Rounding moves the loss of a mask by about se(d), the standard error of the
mean of d, and a difference of two losses by sqrt(2) times as much. Masks are near if they differ by at most three
times that.

A search gets no loss that is lower than the mask's own, so settled losses can be compared with those of other masks.
Searches that follow each loss, such as a genetic search, can take another path on another processor. For them, only
the final mask is compared with the other masks of its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from pruning.core.errors import InputError
from pruning.core.estimate import Estimate
from pruning.core.margins_record import NearTiesRecord
from pruning.core.mask import Mask
from pruning.core.score import Score
from pruning.objective import Loss
from pruning.search.journal import Journal
from pruning.search.rising import Rising

NEAR = 3 * math.sqrt(2)  # standard errors of rounding within which two losses are near


@dataclass
class NearTies:
    """Settings of how near ties are settled.

    At most `most` masks of a decision are scored again; 0 settles no ties.
    """

    most: int = 8

    def check(self) -> None:
        """Raise InputError if `most` is negative or 1.

        This is a separate method because OmegaConf does not call __init__.
        """
        if self.most < 0 or self.most == 1:
            raise InputError(
                f"near_ties.most={self.most} cannot settle a tie: choose 2 or more masks, or 0 to settle none."
            )


@dataclass(frozen=True)
class FloatLoss:
    """The loss in float32 and the journal of its scores. `make` returns None if float32 is not available."""

    make: Callable[[], Loss | None]
    journal: Journal

    @cached_property
    def loss(self) -> Loss | None:
        """The loss, made on first use; it holds a float32 copy of the model until `free`."""
        return self.make()

    def free(self) -> None:
        """Free the float32 copy of the model; the loss is made again when it is needed."""
        self.__dict__.pop("loss", None)

    def scores(self, masks: Sequence[Mask]) -> list[Score] | None:
        """Full scores of the masks, or None if some are not in the journal and cannot be computed."""
        missing = [mask for mask in masks if mask not in self.journal.scores]
        if missing:
            if self.loss is None:
                return None
            for score in self.loss(missing):
                self.journal.add(score)
        return [self.journal.scores[mask] for mask in masks]


@dataclass
class Settler:
    """Settles the near ties of one search, and counts them. Without `single`, every near tie stays as it is."""

    settings: NearTies
    single: FloatLoss | None
    estimate: Estimate
    rounding: float = 0.0  # the largest se(d) so far
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("settled", "changed", "open"), 0))
    unmeasured: bool = False

    def begin(self, dense: Mask, resumed: bool) -> None:
        """Decide once for a search whether float32 is used, so that a search that was killed goes on in the same way.

        The dense model is scored in float32 before any other score. If a resumed search has no float32 scores, it
        began without float32, for example because there was no memory for it.
        """
        if self.settings.most == 0 or self.single is None:
            self.single = None
        elif (resumed and not self.single.journal.scores) or self.single.scores([dense]) is None:
            self.single, self.unmeasured = None, True
        self._free()

    def losses(self, scores: Sequence[Score], best: int, rising: Rising | None = None) -> dict[Mask, float]:
        """The losses by which a search chooses the `best` masks of lowest loss among fully scored masks.

        They are the masks' own losses, except that near masks are raised until they are in the order of their float32
        losses. Equal ones are in the order of `scores`. If `rising` is given, `scores` are its views, and losses are
        rises per cost.
        """
        try:
            return self._losses(scores, best, rising)
        finally:
            self._free()

    def _losses(self, scores: Sequence[Score], best: int, rising: Rising | None) -> dict[Mask, float]:
        losses = {score.mask: score.loss for score in scores}
        ranked = sorted(scores, key=lambda score: score.loss)
        if not 0 < best < len(ranked) or self._measure([ranked[best - 1]], rising) is None:
            return losses
        near = self._near(ranked, best)
        if not near or (single := self._measure(near, rising)) is None:
            return losses
        chosen, position = {score.mask for score in ranked[:best]}, {m: i for i, m in enumerate(losses)}
        last = -math.inf
        for _, _, mask in sorted(
            (loss, position[s.mask], s.mask) for loss, s in zip(single, near, strict=True)
        ):
            last = losses[mask] = max(losses[mask], math.nextafter(last, math.inf))
        self.counts["settled"] += 1
        self.counts["changed"] += chosen != set(sorted(losses, key=losses.__getitem__)[:best])
        return losses

    def end(self, winner: Score, others: Sequence[Score]) -> None:
        """Count the final choice as open if a near mask of the same size could win on another processor.

        `others` are fully scored.
        """
        if self._measure([winner]) is None:
            return
        near = [s for s in others if s.mask != winner.mask and abs(s.loss - winner.loss) <= self.reach]
        near.sort(key=lambda score: abs(score.loss - winner.loss))
        compared = [winner, *near[: self.settings.most - 1]]
        single = self._measure(compared)
        if single is None or len(near) >= self.settings.most or min(single) < single[0]:
            self.counts["open"] += 1
        self._free()

    def _free(self) -> None:
        """Free the float32 copy of the model: no near tie is open any more."""
        if self.single is not None:
            self.single.free()

    def record(self) -> NearTiesRecord | None:
        """What a result records; None if near ties were not looked for."""
        if self.single is None and not self.unmeasured:
            return None
        settled, changed, left = (self.counts[name] for name in ("settled", "changed", "open"))
        rounding = None if self.unmeasured else self.rounding
        return {"settled": settled, "changed": changed, "open": left, "rounding": rounding}

    @property
    def reach(self) -> float:
        """The largest difference of two losses at which masks are near; it can grow during a search."""
        return max(NEAR * self.rounding, self.estimate.ties)

    def reach_at(self, score: Score, rising: Rising | None = None) -> float:
        """The same, as if this score were compared as well. The reach of other choices does not change."""
        singles = self._singles([score], rising)
        error = 0.0 if singles is None else self._error([score], singles)
        return max(self.reach, NEAR * error)

    def _measure(self, scores: Sequence[Score], rising: Rising | None = None) -> list[float] | None:
        """The float32 losses of some masks, or None. `rounding` grows to the largest error among them."""
        if (singles := self._singles(scores, rising)) is None:
            return None
        self.rounding = max(self.rounding, self._error(scores, singles))
        return [single.loss for single in singles]

    def _singles(self, scores: Sequence[Score], rising: Rising | None) -> list[Score] | None:
        """The float32 scores of some masks, or None."""
        if self.single is None:
            return None
        bases = [] if rising is None else [rising.base.mask]
        if (singles := self.single.scores([*bases, *(score.mask for score in scores)])) is None:
            self.unmeasured = True  # an earlier run had float32, and this one has not
            return None
        if rising is None:
            return singles
        rises = replace(rising, base=singles[0])
        return [rises.view(single) for single in singles[1:]]

    def _error(self, scores: Sequence[Score], singles: Sequence[Score]) -> float:
        """The largest se(d) of some masks, 0 if there are none."""
        pairs = zip(scores, singles, strict=True)
        off = ([a - b for a, b in zip(s.samples, single.samples, strict=True)] for s, single in pairs)
        return max(map(self.estimate.error, off), default=0.0)

    def _near(self, ranked: Sequence[Score], best: int) -> list[Score]:
        """The chosen and the rejected masks that rounding could exchange; empty if there are none.

        If there are more than `most`, the choice stays open, and only the nearest ones are returned.
        """
        last, following = ranked[best - 1].loss, ranked[best].loss
        inside = [score for score in ranked[:best] if following - score.loss <= self.reach]
        outside = [score for score in ranked[best:] if score.loss - last <= self.reach]
        if not inside or not outside:
            return []
        most = self.settings.most
        if len(inside) + len(outside) > most:
            self.counts["open"] += 1
            few = max(1, min(len(inside), most - min(len(outside), most // 2)))
            inside, outside = inside[-few:], outside[: most - few]
        return [*inside, *outside]
