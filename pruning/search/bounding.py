"""Rule out masks by lower bounds of their losses.

Let L be the `best`-th lowest loss of the masks that are scored so far, which are those of lowest bound. A mask whose
bound is above L is not among the `best`, so its loss is not computed. For all others it is, and the choice follows
the losses. So the `best` masks are those that all losses would choose.

A race compares masks on a part of the samples, by the paired differences of their terms (`racing.py`). With bounds in
place of a mask's own terms, the differences are too low. So if their mean is above 0, that of its own terms is, too,
and a test that rules the mask out is as rarely wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pruning.core.estimate import Estimate
from pruning.core.mask import Mask
from pruning.core.score import Score
from pruning.objective import Loss
from pruning.search.journal import Journal

# Nats. Bounds are computed by other products than losses and are rounded differently, and the losses of near ties are
# needed as well (`near_ties.py`).
SLACK = 0.02

# lower(masks, start, samples): lower bounds of the scores over the first `samples` samples, whose first `start` terms
# are the masks' own. Empty if there are no bounds.
Lower = Callable[[Sequence[Mask], int, int], Mapping[Mask, Score]]
# ruled_out(bound, score): whether a mask with this bound is worse than the mask with this score.
RuledOut = Callable[[Score, Score], bool]


def bounded(
    bounds: Mapping[Mask, Score],
    best: int,
    scorer: Callable[[Sequence[Mask]], Sequence[Score]],
    ruled_out: RuledOut,
) -> dict[Mask, Score]:
    """The scores of the masks that their bounds do not rule out: more than `best`, in the order of `bounds`.

    One rejected mask is always scored, so that the lead of the chosen ones is known.
    """
    order = sorted(bounds, key=lambda mask: bounds[mask].loss)
    first = scorer(order[: best + 1])
    worst = sorted(first, key=lambda score: score.loss)[best - 1]
    others = [mask for mask in order[best + 1 :] if not ruled_out(bounds[mask], worst)]
    scores = {score.mask: score for score in [*first, *(scorer(others) if others else ())]}
    return {mask: scores[mask] for mask in bounds if mask in scores}


@dataclass
class LowerBounds:
    """The bounds of a search, kept in a journal, so that a resumed search rules out the same masks.

    `part` gives the loss over a part of the samples.
    """

    part: Callable[[int, int], Loss]
    estimate: Estimate
    journal: Journal

    def scores(self, own: Mapping[Mask, Sequence[float]], samples: int) -> dict[Mask, Score]:
        """Bounds over the first `samples` samples, whose first terms are masks' `own`; empty if there are none."""
        missing: dict[int, list[Mask]] = {}
        for mask in own:
            if (known := self._known(mask)) < samples:
                missing.setdefault(known, []).append(mask)
        for known, masks in missing.items():
            find = self.part(known, samples).bounds
            for mask, terms, seconds in () if find is None else find(masks):
                self._note(mask, terms, seconds)
        if any(self._known(mask) < samples for mask in own):
            return {}
        return {mask: self._joined(mask, terms, samples) for mask, terms in own.items()}

    def whole(self, mask: Mask) -> float | None:
        """The bound of a mask's loss over all samples, if it is known."""
        score = self.journal.scores.get(mask)
        return score.loss if score is not None and score.of is None else None

    def terms(self, mask: Mask) -> Sequence[float]:
        """The bounds of a mask's terms that are known."""
        return self.journal.scores[mask].samples if mask in self.journal.scores else ()

    def gap(self, scores: Sequence[Score]) -> float:
        """How far the losses of masks are above their bounds, on average; 0 if no bounds are known."""
        bounds = [(score.loss, self.whole(score.mask)) for score in scores]
        gaps = [loss - bound for loss, bound in bounds if bound is not None]
        return math.fsum(gaps) / len(gaps) if gaps else 0.0

    def _known(self, mask: Mask) -> int:
        return len(self.terms(mask))

    def _note(self, mask: Mask, terms: Sequence[float], seconds: float) -> None:
        old = self.journal.scores.get(mask)
        joined = self._score(mask, (*(old.samples if old else ()), *terms), seconds)
        self.journal.add(replace(joined, seconds=seconds + (old.seconds if old else 0.0)))

    def _joined(self, mask: Mask, own: Sequence[float], samples: int) -> Score:
        rest = self.journal.scores[mask].samples[len(own) : samples]
        return self._score(mask, (*own, *rest), 0.0)

    def _score(self, mask: Mask, terms: tuple[float, ...], seconds: float) -> Score:
        partial = self.estimate.count if len(terms) < self.estimate.count else None
        return Score(mask, self.estimate.mean(terms), terms, seconds, partial)
