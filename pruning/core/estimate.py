"""The loss and its standard error, from the terms of samples.

A loss is a weighted mean over samples. The weight of a text window is the number of tokens that it scores; items have
equal weights. A mixed objective has two kinds of samples, called parts, and each part has a share. With parts p,
shares a_p, samples s of part p, weights w_s and terms t_s:

    loss = sum over p of  a_p * m_p        m_p = sum over s of w_s t_s / sum over s of w_s
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """The weight and the part of each sample, in order, and the share of each part.

    If there are fewer terms than weights, the terms belong to the first samples. A difference of `ties` or less
    between the terms of two masks only serves to break ties, so statistical tests must count it as 0.
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
        """The smallest n such that the first n samples include every part with a share above 0."""
        parts = [part for part, share in enumerate(self.shares) if share]
        return 1 + max(self.parts.index(part) for part in parts if part in self.parts)

    def mean(self, terms: Sequence[float]) -> float:
        """The loss; not finite if a term is not finite; NaN if a part with a share has no sample in `terms`."""
        parts = [
            share * weighted_mean(values, weights) for share, values, weights in self._by_part(terms) if share
        ]
        return math.fsum(parts) if all(map(math.isfinite, parts)) else sum(parts)

    def error(self, terms: Sequence[float], whole: int | None = None) -> float:
        """The standard error of the loss, by linearisation within each part; a part with one sample adds 0.

        With `whole`, the n terms are a random subset of `whole` samples, and the mean over all `whole` samples is
        estimated: the error shrinks by sqrt(1 - n / whole), to 0 if n = whole.
        """
        rest = 1.0 if whole is None else max(0.0, 1 - len(terms) / whole)
        return math.sqrt(
            rest
            * math.fsum(
                share**2 * _variance(values, weights) for share, values, weights in self._by_part(terms)
            )
        )

    def differences(self, terms: Sequence[float], others: Sequence[float]) -> list[float]:
        """The terms of one mask minus those of another, sample by sample; 0 if they differ by `ties` or less."""
        differences = (a - b for a, b in zip(terms, others, strict=True))
        return [difference if abs(difference) > self.ties else 0.0 for difference in differences]

    def freedom(self, terms: Sequence[float]) -> float:
        """The degrees of freedom of `error`; 0 if a part with a share has one sample, because its error is unknown.

        For one part, this is the number of samples minus one. For several parts, whose variances differ, the
        formula of Welch and Satterthwaite is used: (sum v)^2 / sum (v^2 / (n - 1)), where v is the variance that a
        part with n samples adds.
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
            samples = [s for s in range(len(terms)) if self.parts[s] == part]
            yield share, [terms[s] for s in samples], [self.weights[s] for s in samples]


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted mean. Sums are exact, so the order of the values does not matter.

    NaN if there are no values; not finite if a value is not finite.
    """
    if not values:
        return math.nan
    if not all(map(math.isfinite, values)):
        return sum(values)
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)


def mean(values: Sequence[float]) -> float:
    """The mean of values with equal weights."""
    return weighted_mean(values, [1.0] * len(values))


def _variance(values: Sequence[float], weights: Sequence[float]) -> float:
    """Variance of a weighted mean: with equal weights, the sample variance (ddof 1) divided by the count."""
    count = len(values)
    if count < 2:
        return 0.0
    centre, total = weighted_mean(values, weights), math.fsum(weights)
    squares = math.fsum((w * (v - centre)) ** 2 for v, w in zip(values, weights, strict=True))
    return squares / total**2 * count / (count - 1)


def standard_error(values: Sequence[float]) -> float:
    """Standard error of a plain mean: sample standard deviation (ddof 1) / sqrt(count); 0 for one value."""
    return math.sqrt(_variance(values, [1.0] * len(values)))
