"""From the terms of samples to a loss and its standard error.

A loss is a mean over samples: over the windows of a text each weighs as many tokens as it scores, over items all
weigh the same. A mixed objective has samples of two kinds and a share for each. In general, with parts p, shares a_p,
samples s of part p, weights w_s and terms t_s

    loss = sum over p of  a_p * m_p        m_p = sum over s of w_s t_s / sum over s of w_s
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """Weights and parts of the samples, in their order, and the share of each part.

    Terms that are shorter than the weights belong to the first samples. Terms of two masks that differ by no more
    than `ties` are equal but for an order among equals, which is nothing that a test may go by.
    """

    weights: tuple[float, ...]
    parts: tuple[int, ...]
    shares: tuple[float, ...] = (1.0,)
    ties: float = 0.0

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(self.weights)

    @property
    def least(self) -> int:
        """The first so many samples are of every part that has a share."""
        parts = [part for part, share in enumerate(self.shares) if share]
        return 1 + max(self.parts.index(part) for part in parts if part in self.parts)

    def mean(self, terms: Sequence[float]) -> float:
        """The loss; not finite if a term is not, NaN if a part has no sample among the first `len(terms)`."""
        parts = [
            share * weighted_mean(values, weights) for share, values, weights in self._by_part(terms) if share
        ]
        return math.fsum(parts) if all(map(math.isfinite, parts)) else sum(parts)

    def error(self, terms: Sequence[float], whole: int | None = None) -> float:
        """The standard error of the loss, by linearisation within each part; 0 where a part has one sample.

        With `whole`, the terms are taken for a random part of so many samples whose own mean is wanted, so the error
        shrinks by sqrt(1 - n / whole) and vanishes where all are known.
        """
        rest = 1.0 if whole is None else max(0.0, 1 - len(terms) / whole)
        return math.sqrt(
            rest
            * math.fsum(
                share**2 * _variance(values, weights) for share, values, weights in self._by_part(terms)
            )
        )

    def differences(self, terms: Sequence[float], others: Sequence[float]) -> list[float]:
        """What the terms of one mask are above those of another, sample by sample; 0 where they tie."""
        found = (a - b for a, b in zip(terms, others, strict=True))
        return [difference if abs(difference) > self.ties else 0.0 for difference in found]

    def freedom(self, terms: Sequence[float]) -> float:
        """The degrees of freedom of that error; 0, for no error is known, where a part has one sample.

        Of one part, its number of samples less one. Of several, whose variances differ, Welch and Satterthwaite's
        number, (sum v)^2 / sum (v^2 / (n - 1)) with the variance v that each part adds.
        """
        parts = [
            (share**2 * _variance(values, weights), len(values) - 1)
            for share, values, weights in self._by_part(terms)
            if share
        ]
        least = min(free for _, free in parts)
        total = math.fsum(variance for variance, _ in parts)
        if least < 1 or total == 0:
            return float(max(least, 0))
        return total**2 / math.fsum(variance**2 / free for variance, free in parts)

    def _by_part(self, terms: Sequence[float]) -> Iterator[tuple[float, list[float], list[float]]]:
        for part, share in enumerate(self.shares):
            mine = [s for s in range(len(terms)) if self.parts[s] == part]
            yield share, [terms[s] for s in mine], [self.weights[s] for s in mine]


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Mean in float64 by exact summation, whatever the order; NaN if there is none, not finite if one is not."""
    if not values:
        return math.nan
    if not all(map(math.isfinite, values)):
        return sum(values)
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)


def mean(values: Sequence[float]) -> float:
    """The mean of values that all weigh the same."""
    return weighted_mean(values, [1.0] * len(values))


def _variance(values: Sequence[float], weights: Sequence[float]) -> float:
    """Variance of a weighted mean: with equal weights, the sample variance (ddof 1) over the count."""
    count = len(values)
    if count < 2:
        return 0.0
    centre, total = weighted_mean(values, weights), math.fsum(weights)
    squares = math.fsum((w * (v - centre)) ** 2 for v, w in zip(values, weights, strict=True))
    return squares / total**2 * count / (count - 1)


def standard_error(values: Sequence[float]) -> float:
    """Standard error of a plain mean: sample standard deviation (ddof 1) over the root of the count; 0 for one."""
    return math.sqrt(_variance(values, [1.0] * len(values)))
