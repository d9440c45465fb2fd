"""Numbers with units, for people to read."""

from __future__ import annotations

import math

MEBIBYTE = 1 << 20


def bytes_text(count: int) -> str:
    """A number of bytes as text: `269.1 MB`, `16.06 GB`."""
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def rate_text(value: float) -> str:
    """A number with three significant digits, or its whole integer part: `0.612`, `26.1`, `1,133`."""
    if not math.isfinite(value) or value == 0:
        return f"{value:.2f}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def duration_text(seconds: float) -> str:
    """A rough duration as text: `40 s`, `24 min`, `3.2 h`."""
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
