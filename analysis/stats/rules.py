"""Rules that make one verdict of several results. The paper gives none, so these are ours.

`make paper-check` and the verdicts on a study use the same rules for the same statement. True: the statement holds;
False: it does not; None: the results do not decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LEVEL = 0.05  # ours: a p-value, or a q-value, of at most this is significant


def most(decided: Iterable[bool | None]) -> bool | None:
    """What more than half of all panels or cells say; None if neither side has more than half."""
    every = list(decided)
    for side in (True, False):
        if 2 * every.count(side) > len(every):
            return side
    return None


def all_negative(correlations: Sequence[float], adjusted: Sequence[float]) -> bool | None:
    """Whether the significant correlations are negative; None if there are none, or of both signs.

    `adjusted` are p-values that control the false discovery rate.
    """
    signs = {value < 0 for value, q in zip(correlations, adjusted, strict=True) if q <= LEVEL}
    return signs.pop() if len(signs) == 1 else None
