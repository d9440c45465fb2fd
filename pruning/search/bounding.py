"""Rule out masks by lower bounds of their losses.

Let L be the `best`-th lowest loss of the masks that are scored so far; the first are those of lowest bound. A mask
whose bound is above L, by more than rounding, is not among the `best`, so its loss is not computed. For all others it
is, and the choice follows the losses. So the `best` masks are those that all losses would choose.

Bounds are kept in a journal, so that a resumed search rules out the same masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from pruning.core.mask import Mask
from pruning.core.score import Score
from pruning.objective import Loss
from pruning.search.journal import KnownScores

# Nats. Bounds are computed by other products than losses and are rounded differently, and the losses of near ties are
# needed as well (`near_ties.py`).
SLACK = 0.02


def bounded(
    bounds: Mapping[Mask, Score],
    best: int,
    scorer: Callable[[Sequence[Mask]], Sequence[Score]],
    slack: Callable[[Score], float] = lambda _: SLACK,
) -> dict[Mask, Score]:
    """The scores of the masks that their bounds do not rule out, in the order of `bounds`.

    A mask is ruled out if its bound is more than `slack(score)` above the score of the last of the `best`. One
    rejected mask is always scored, so that the lead of the chosen ones is known.
    """
    order = sorted(bounds, key=lambda mask: bounds[mask].loss)
    left, order = order[: best + 1], order[best + 1 :]
    scores: dict[Mask, Score] = {}
    while left:
        scores |= {score.mask: score for score in scorer(left)}
        worst = sorted(scores.values(), key=lambda score: score.loss)[best - 1]
        limit = worst.loss + slack(worst)
        left = [mask for mask in order if mask not in scores and bounds[mask].loss <= limit]
    return {mask: scores[mask] for mask in bounds if mask in scores}


def lower_bounds(
    masks: Sequence[Mask], loss: Loss, known: KnownScores, share: bool, noted: Callable[[], None]
) -> dict[Mask, Score]:
    """Scores that are at most those of the masks; empty if there are none.

    They are taken from the cell's journal and, if `share`, from those of other cells. Others are computed, and
    `noted` is called after each.
    """
    journal = known.bounds
    if share:
        for score in known.find_bounds([mask for mask in masks if mask not in journal.scores]):
            journal.add(score)
    missing = [mask for mask in masks if mask not in journal.scores]
    for mask, terms, seconds in loss.bounds(missing) if loss.bounds is not None and missing else ():
        journal.add(Score(mask, loss.estimate.mean(terms), tuple(terms), seconds))
        noted()
    if any(mask not in journal.scores for mask in masks):
        return {}
    return {mask: journal.scores[mask] for mask in masks}


def mean_gap(scores: Sequence[Score], bounds: Mapping[Mask, Score]) -> float:
    """How far the losses of masks are above their bounds, on average; 0 if no bounds are known."""
    gaps = [score.loss - bounds[score.mask].loss for score in scores if score.mask in bounds]
    return math.fsum(gaps) / len(gaps) if gaps else 0.0
