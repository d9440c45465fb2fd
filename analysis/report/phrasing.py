"""Functions that write the numbers and lists in the report's sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from ..figures.style import number


def count(n: int, noun: str) -> str:
    """A number and its noun, as in `1 cell` or `1,200 cells`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(words: Iterable[str]) -> str:
    """Join words: `a`, `a and b`, `a, b and c`."""
    every = list(words)
    return " and ".join([", ".join(every[:-1]), every[-1]]) if len(every) > 1 else "".join(every)


def percent(share: float) -> str:
    """A share in whole percent, with a minus sign if it is negative."""
    return "–" if math.isnan(share) else f"{100 * share:.0f}".replace("-0", "0").replace("-", "−")  # noqa: RUF001


def percents(value: float, low: float, high: float) -> str:
    """A share with its interval: `62 percent (50 to 70)`, or `62 percent` if there is no interval."""
    interval = "" if math.isnan(low) else f" ({percent(low)} to {percent(high)})"
    return f"{percent(value)} percent{interval}"


def with_interval(value: float, low: float, high: float) -> str:
    """A number with its interval: `8.96 (3.16 to 25.4)`, or `8.96 (no interval)`."""
    interval = "no interval" if math.isnan(low) else f"{number(low)} to {number(high)}"
    return f"{number(value)} ({interval})"


def reasons(notes: Iterable[str]) -> str:
    """Distinct reasons with their counts, the most frequent first."""
    counts = Counter(note for note in notes if note)
    return "; ".join(f"{note} ({n} times)" if n > 1 else note for note, n in counts.most_common())


def sentence(parts: Sequence[str]) -> str:
    """Clauses joined by semicolons, with a capital letter and a full stop."""
    text = "; ".join(part for part in parts if part)
    return text[:1].upper() + text[1:] + "."
