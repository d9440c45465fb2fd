"""Settle near ties in float32.

In bfloat16, a loss depends on the order in which a processor adds, so another processor gives a slightly different
loss. If two masks differ by less than that, the two processors can choose different masks, and all later choices
follow. Such masks are scored again in float32, where rounding is 10,000 times smaller. Their losses are then swapped
among them, so that they are in the order of the float32 losses.

How far rounding moves a difference of two losses is measured. For each mask with both losses, let d_s be the
difference of the two terms of sample s. Rounding moves the loss of a mask by about se(d), the standard error of the
mean of d, and a difference of two losses by sqrt(2) times as much. Masks are near if they differ by at most three
times that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.result import NearTiesRecord
from pruning.core.score import Score
from pruning.objective import Loss
from pruning.search.journal import Journal

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
    """The loss in float32 and the journal of its scores. `make` returns None if float32 cannot be had."""

    make: Callable[[], Loss | None]
    journal: Journal

    @cached_property
    def loss(self) -> Loss | None:
        """The loss, made on first use."""
        return self.make()

    def scores(self, masks: Sequence[Mask]) -> list[Score]:
        """Full scores of the masks; only those that are not in the journal are computed."""
        missing = [mask for mask in masks if mask not in self.journal.scores]
        if missing:
            assert self.loss is not None
            for score in self.loss(missing):
                self.journal.add(score)
        return [self.journal.scores[mask] for mask in masks]


@dataclass
class Settler:
    """Settles the near ties of one search, and counts them. Without `single`, every near tie stays as it is."""

    settings: NearTies
    single: FloatLoss | None
    rounding: float = 0.0  # the largest se(d) so far
    counts: dict[str, int] = field(default_factory=lambda: {"settled": 0, "changed": 0, "open": 0})

    def losses(self, scores: Sequence[Score], best: int) -> dict[Mask, float]:
        """The losses by which a search chooses the `best` masks of lowest loss among fully scored masks.

        They are the masks' own losses, except that near masks have swapped losses: in order of their float32 losses.
        """
        losses = {score.mask: score.loss for score in scores}
        ranked = sorted(scores, key=lambda score: score.loss)
        if not 0 < best < len(ranked) or not self.able:
            return losses
        self._measure([ranked[best - 1]])
        near = self._near(ranked, best)
        if not near:
            return losses
        order = self._measure(near)
        ordered = [score.mask for _, score in sorted(zip(order, near, strict=True), key=lambda pair: pair[0])]
        swapped = dict(zip(ordered, sorted(score.loss for score in near), strict=True))
        chosen = {score.mask for score in ranked[:best]}
        losses |= swapped
        self.counts["settled"] += 1
        self.counts["changed"] += chosen != set(sorted(losses, key=losses.__getitem__)[:best])
        return losses

    @property
    def able(self) -> bool:
        """Whether losses can be computed in float32."""
        return self.settings.most > 0 and self.single is not None and self.single.loss is not None

    def record(self) -> NearTiesRecord | None:
        """What a result records; None if no loss was computed in float32."""
        if not self.rounding:
            return None
        settled, changed, left = (self.counts[name] for name in ("settled", "changed", "open"))
        return {"settled": settled, "changed": changed, "open": left, "rounding": self.rounding}

    def _measure(self, scores: Sequence[Score]) -> list[float]:
        """The float32 losses of some masks. `rounding` grows to the largest error among them."""
        assert self.single is not None
        assert self.single.loss is not None
        singles = self.single.scores([score.mask for score in scores])
        for score, single in zip(scores, singles, strict=True):
            off = [a - b for a, b in zip(score.samples, single.samples, strict=True)]
            self.rounding = max(self.rounding, self.single.loss.estimate.error(off))
        return [single.loss for single in singles]

    def _near(self, ranked: Sequence[Score], best: int) -> list[Score]:
        """The masks on both sides of a choice that rounding could swap; empty if it could swap none.

        If there are more than `most`, the choice stays open: the nearest ones are returned, as many on either side.
        """
        last, following, reach = ranked[best - 1].loss, ranked[best].loss, NEAR * self.rounding
        inside = [score for score in ranked[:best] if following - score.loss <= reach]
        outside = [score for score in ranked[best:] if score.loss - last <= reach]
        if not inside or not outside:
            return []
        most = self.settings.most
        if len(inside) + len(outside) > most:
            self.counts["open"] += 1
            few = max(1, min(len(inside), most - min(len(outside), most // 2)))
            inside, outside = inside[-few:], outside[: most - few]
        return [*inside, *outside]
