"""Lazy rounds: score the most promising candidates first, and stop if no other one is likely to be chosen.

The increment of a block, by which its removal raises the loss, is similar in each round of greedy search. So
the increment in the previous round predicts the loss of a candidate. Candidates are scored from the lowest
prediction upwards. The others are skipped once this inequality holds for each:

    prediction + mean(e) - q * sd(e) * sqrt(1 + 1 / n)  >  the loss of the worst candidate that would be chosen

The errors e are losses minus predictions. If a race or a bound has ruled a candidate out, its loss is
estimated. mean(e) is over the n candidates scored in this round. sd(e) is pooled over all rounds, about each
round's mean. If m candidates are left and the search has r rounds, q is the 1 - risk / ((r - 1) * m) quantile
of Student's t. So if errors are normally distributed, `risk` is about the probability of skipping a candidate
that would have been chosen. Errors are only roughly normal; docs/algorithms.md has the share of searches that
kept their mask. If masks are compared by rises per cost, both sides are rises per cost.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pruning.algo import Ask, Request, Rise
from pruning.core.errors import InputError
from pruning.core.mask import Mask

FIRST = 6  # candidates that are scored before any can be skipped
MORE = 3  # candidates in each later batch
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
        """Score candidates of a round; return the losses of those scored. `best` is how many are chosen (None: all).

        `children` maps each candidate to its parent, the mask that it extends. With `rise`, the
        candidates with the lowest rises per cost are chosen.
        """
        if self.risk is None:
            masks = list(children)
            return dict(zip(masks, (yield Ask(masks, best, rise=rise)), strict=True))
        best = len(children) if best is None else best

        def value(mask: Mask, loss: float) -> float:
            return loss if rise is None else rise.rate(mask, loss, self._losses[rise.base])

        increments = {mask: self._increment(mask, parent) for mask, parent in children.items()}
        new = None in increments.values()  # then nothing is predicted, as in the first round
        predicted = {
            mask: 0.0 if new or more is None else self._losses[children[mask]] + more
            for mask, more in increments.items()
        }
        order, size = list(children), len(children)
        if not new:
            order, size = sorted(order, key=lambda mask: value(mask, predicted[mask])), FIRST + best - 1
        losses: dict[Mask, float] = {}
        errors: list[float] = []
        while order:
            batch, order, size = order[:size], order[size:], MORE if losses else size
            answer = yield Ask(
                batch, best=best, known=list(losses), rest=len(order), rise=rise, estimates=True
            )
            losses = dict(zip([*losses, *batch], answer, strict=True))
            errors = [loss - predicted[mask] for mask, loss in losses.items()]
            chosen = sorted(value(mask, loss) for mask, loss in losses.items())[min(best, len(losses)) - 1]
            least = self._least_error(errors, len(order)) if order else 0.0
            if order and min(value(mask, predicted[mask] + least) for mask in order) > chosen:
                break
        centre = math.fsum(errors) / len(errors)
        if not new:
            self._squares += _spread(errors, centre)
            self._freedom += len(errors) - 1
        for mask in children:  # for a skipped candidate, the mean error of the others is assumed
            self._losses[mask] = losses.get(mask, predicted[mask] + centre)
        self._parents |= children
        return losses

    def _increment(self, mask: Mask, parent: Mask) -> float | None:
        """The previous round's increment of the units that `mask` drops and `parent` does not; None if it is unknown.

        If the dense model's loss is unknown, 0 replaces it, which shifts all predictions of a round equally.
        """
        if (before := self._parents.get(parent)) is None:
            return None
        loss = self._losses.get(before.drop(*{*mask.dropped} - {*parent.dropped}))
        return None if loss is None else loss - self._losses.get(before, 0.0)

    def _least_error(self, errors: Sequence[float], left: int) -> float:
        """A lower bound on the errors of `left` unscored candidates; minus infinity if too few errors are known."""
        count = len(errors)
        centre = math.fsum(errors) / count
        squares, freedom = self._squares + _spread(errors, centre), self._freedom + count - 1
        if freedom < 1:
            return -math.inf
        from scipy.stats import t

        assert self.risk is not None
        quantile = float(t.isf(self.risk / (max(1, self.count - 1) * left), freedom))
        return centre - quantile * math.sqrt(squares / freedom * (1 + 1 / count))


def _spread(errors: Sequence[float], centre: float) -> float:
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
