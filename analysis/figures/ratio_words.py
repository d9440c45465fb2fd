"""Ratios of shares of variance for sentences. A ratio without an upper end shows how small its second side is."""

from __future__ import annotations

from ..stats.estimates import IntervalEstimate, Shares
from ..stats.frames import at
from ..stats.sources import DRAWN
from .variance_shares import ratio_text, unbounded

# The ratios of `Shares`, and the parts on their second side.
SECOND = {
    "total_ratio": ("search", "interaction"),
    "objective_ratio": ("search", "interaction"),
    "ratio": ("search",),
    "objective_draw": ("draw",),
}


def ratio_words(shares: Shares, name: str) -> str:
    """A ratio of `shares` for a sentence: `above 45 (the search explains at most 1 percent)`."""
    text, most = ratio_text(getattr(shares, name)), upper_ends(shares, name)
    if not most:
        return text
    (first, share), *others = most.items()
    words = [f"the {first} explains at most {percent_text(share)} percent"]
    words += [f"the {other} at most {percent_text(share)}" for other, share in others]
    return f"{text} ({', '.join(words)})"


def percent_text(share: float) -> str:
    """A share in percent: `44`, or `0.3` if it is less than one percent."""
    return f"{100 * share:.1g}" if 0 < share < 0.01 else f"{100 * share:.0f}"


def upper_ends(shares: Shares, name: str) -> dict[str, float]:
    """The upper ends of the shares on the second side of a ratio, if the ratio has no upper end."""
    ratio: IntervalEstimate = getattr(shares, name)
    return {part: _upper_end(shares, part) for part in SECOND[name]} if unbounded(ratio) else {}


def _upper_end(shares: Shares, part: str) -> float:
    if part == "draw":
        return at(shares.sources.set_index("source"), DRAWN, "high")
    return shares.parts[part].high
