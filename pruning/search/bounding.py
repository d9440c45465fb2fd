"""Rule out candidates by lower bounds of their losses. The chosen masks are those that all losses would choose.

Let L be the worst loss among the `best` candidates of lowest bound. A candidate whose bound is above L is not among
the `best`, so its loss is not computed. For all others it is, and the choice follows the losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pruning.core.mask import Mask
from pruning.core.score import Score

# Nats. Bounds are computed by other products than losses and are rounded differently, and the losses of near ties are
# needed as well (`near_ties.py`).
SLACK = 0.01


def bounded(
    bounds: Mapping[Mask, float], best: int, scorer: Callable[[Sequence[Mask]], Sequence[Score]]
) -> dict[Mask, Score]:
    """The scores of the candidates that their bounds do not rule out: at least `best` (or all, if fewer)."""
    order = sorted(bounds, key=bounds.__getitem__)
    first = scorer(order[:best])
    worst = max(score.loss for score in first)
    others = [mask for mask in order[best:] if bounds[mask] <= worst + SLACK]
    return {score.mask: score for score in [*first, *(scorer(others) if others else ())]}
