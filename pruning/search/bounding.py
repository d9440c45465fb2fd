"""Rule out candidates by lower bounds of their losses. The chosen masks are those that all losses would choose.

Let L be the `best`-th lowest loss of the candidates that are scored so far, which are those of lowest bound. A
candidate whose bound is above L is not among the `best`, so its loss is not computed. For all others it is, and the
choice follows the losses. One rejected candidate is always scored, so that the lead of the chosen ones is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pruning.core.mask import Mask
from pruning.core.score import Score

# Nats. Bounds are computed by other products than losses and are rounded differently, and the losses of near ties are
# needed as well (`near_ties.py`).
SLACK = 0.02


def bounded(
    bounds: Mapping[Mask, float],
    best: int,
    scorer: Callable[[Sequence[Mask]], Sequence[Score]],
    reach: float = 0.0,
) -> dict[Mask, Score]:
    """The scores of the candidates that their bounds do not rule out: more than `best`, in the order of `bounds`.

    `reach` is the largest difference of two losses that rounding may have turned round.
    """
    order = sorted(bounds, key=bounds.__getitem__)
    first = scorer(order[: best + 1])
    worst = sorted(score.loss for score in first)[best - 1]
    others = [mask for mask in order[best + 1 :] if bounds[mask] <= worst + max(SLACK, reach)]
    scores = {score.mask: score for score in [*first, *(scorer(others) if others else ())]}
    return {mask: scores[mask] for mask in bounds if mask in scores}
