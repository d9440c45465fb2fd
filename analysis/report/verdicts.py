"""The three verdicts on a statement, and when an interval decides between them."""

from __future__ import annotations

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "inconclusive"


def of(decided: bool | None) -> str:
    """The verdict of a rule in `stats.rules`."""
    return OPEN if decided is None else HOLDS if decided else FAILS


def judged(low: float, high: float, limit: float) -> str:
    """Whether a quantity is above `limit`, given the ends of its interval. If the interval contains it: OPEN."""
    return HOLDS if low > limit else FAILS if high < limit else OPEN
