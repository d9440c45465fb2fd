"""Lazy rounds: predict the losses of a round's candidates, so that unlikely ones need not be scored.

The increment of a block, by which its removal raises the loss, is similar in each round of greedy search. So
the increment in the previous round predicts the loss of a candidate. `search/decide.py` skips candidates with
high predictions; how high depends on the errors of the predictions so far. Errors are losses minus predictions.
If a race has ruled a candidate out, its loss is estimated.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pruning.algo import Ask, Lazy, Request, Rise
from pruning.core.errors import InputError
from pruning.core.mask import Mask

log = logging.getLogger(__name__)


@dataclass
class Rounds:
    """The `count` rounds of one search, each of which drops one more block, and all prediction errors so far.

    `risk` is the accepted probability of skipping a candidate that would be chosen. With None, nothing is skipped.
    """

    risk: float | None
    count: int
    _losses: dict[Mask, float] = field(default_factory=dict)  # of all candidates; if skipped, predicted
    _parents: dict[Mask, Mask] = field(default_factory=dict)
    _squares: float = 0.0  # sum of squared errors in earlier rounds, about each round's mean
    _freedom: int = 0

    def know(self, dense: Mask, loss: float) -> None:
        """Record the loss of the dense model, without which rises per cost cannot be compared."""
        self._losses[dense] = loss

    def scored(
        self, children: Mapping[Mask, Mask], best: int | None, rise: Rise | None = None
    ) -> Generator[Request, Any, dict[Mask, float]]:
        """Request the losses of a round's candidates; return those of the candidates that are not skipped.

        `best` is how many are chosen (None: all). `children` maps each candidate to its parent, the mask that it
        extends. With `rise`, the candidates with the lowest rises per cost are chosen.
        """
        masks = list(children)
        if self.risk is None:
            return dict(zip(masks, (yield Ask(masks, best, rise=rise)), strict=True))
        predicted = self._predicted(children)
        if predicted and rise is not None:
            before = self._losses[rise.base]
            masks.sort(key=lambda mask: rise.rate(mask, predicted[mask], before))
        elif predicted:
            masks.sort(key=predicted.__getitem__)
        lazy = Lazy(predicted, self.risk / max(1, self.count - 1), self._squares, self._freedom)
        answer = yield Ask(masks, len(masks) if best is None else best, rise=rise, lazy=lazy)
        losses = {mask: loss for mask, loss in zip(masks, answer, strict=True) if math.isfinite(loss)}
        errors = [loss - predicted.get(mask, 0.0) for mask, loss in losses.items()]
        if predicted:
            self._squares += squares(errors)
            self._freedom += len(errors) - 1
        centre = math.fsum(errors) / len(errors)
        for mask in masks:  # for a skipped candidate, the mean error of the others is assumed
            self._losses[mask] = losses[mask] if mask in losses else predicted[mask] + centre
        self._parents |= children
        return losses

    def _predicted(self, children: Mapping[Mask, Mask]) -> dict[Mask, float]:
        """The predicted losses of a round's candidates; empty if one of them cannot be predicted."""
        increments = {mask: self._increment(mask, parent) for mask, parent in children.items()}
        known = {mask: more for mask, more in increments.items() if more is not None}
        if len(known) < len(children):
            return {}
        return {mask: self._losses[children[mask]] + more for mask, more in known.items()}

    def _increment(self, mask: Mask, parent: Mask) -> float | None:
        """The previous round's increment of the units that `mask` drops and `parent` does not; None if it is unknown.

        If the dense model's loss is unknown, 0 replaces it, which shifts all predictions of a round equally.
        """
        if (before := self._parents.get(parent)) is None:
            return None
        loss = self._losses.get(before.drop(*{*mask.dropped} - {*parent.dropped}))
        return None if loss is None else loss - self._losses.get(before, 0.0)


def squares(errors: Sequence[float]) -> float:
    """The sum of the squared errors about their mean."""
    centre = math.fsum(errors) / len(errors)
    return math.fsum((error - centre) ** 2 for error in errors)


def check_risk(risk: float | None) -> None:
    """Raise InputError if the setting `lazy` is not a probability."""
    if risk is not None and not 0 < risk < 1:
        raise InputError(
            f"algo.lazy={risk:g} is not between 0 and 1: choose a probability such as 0.05, or null."
        )


def warn_on(kind: str, algo: object) -> None:
    """Log a warning if a search is lazy on non-text samples, where skipping often changes the mask."""
    if getattr(algo, "lazy", None) is not None and kind != "text":
        log.warning(
            "algo.lazy is meant for losses on text: on items, increments change much from round to round, so the "
            "search is likely to lose the mask that it would find with algo.lazy=null."
        )
