"""Numbers about generated tokens that need no right answers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

N = 4  # tokens in a run that can be repeated


def repeated(tokens: Sequence[int], n: int = N) -> float:
    """The share of runs of `n` tokens that occurred before in the same text; 0 if there is no such run.

    This is seq-rep-n of "Neural Text Generation with Unlikelihood Training" (arXiv 1908.04319, section 6), and 1
    minus distinct-n of the text. A text that repeats one short phrase gets nearly 1.
    """
    runs = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def same_start(tokens: Sequence[int], dense: Sequence[int]) -> float:
    """The share of the dense model's tokens before the first one that differs; 1 if none differs."""
    pairs = zip(tokens, dense, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) / len(dense)
