"""The loss and its standard error, computed from one term per sample.

A loss is a weighted mean over samples. The weight of a text window is the number of its tokens that are scored;
items have equal weights. A mixed objective has two kinds of samples, called parts, and each part has a share. With
parts p, shares a_p, samples s of part p, weights w_s and terms t_s:

    loss = sum over p of  a_p * m_p        m_p = sum over s of w_s t_s / sum over s of w_s
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """The weight and the part of each sample, in order, and the share of each part.

    If there are fewer terms than weights, the terms belong to the first samples. If the terms of
    two masks differ by `ties` or less, the difference only serves to break ties. Statistical tests must count it
    as 0.
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
        """The loss.

        Not finite if a term is not finite; NaN if `terms` has no sample of a part with a share above 0.
        """
        parts = [
            share * weighted_mean(values, weights) for share, values, weights in self._by_part(terms) if share
        ]
        return math.fsum(parts) if all(map(math.isfinite, parts)) else sum(parts)

    def error(self, terms: Sequence[float], whole: int | None = None) -> float:
        """The standard error of the loss, by linearisation within each part; a part with one sample adds 0.

        If `whole` is given, the n terms are those of a random subset of `whole` samples, and the loss estimates the
        loss over all `whole` samples. The error is then multiplied by sqrt(1 - n / whole), so it is 0 if n = whole.
        """
        rest = 1.0 if whole is None else max(0.0, 1 - len(terms) / whole)
        return math.sqrt(
            rest
            * math.fsum(
                share**2 * _variance(values, weights) for share, values, weights in self._by_part(terms)
            )
        )

    def stated_error(self, terms: Sequence[float]) -> float | None:
        """`error` as results state it: None if a part with a share above 0 has one sample, whose error is unknown."""
        return self.error(terms) if self.freedom(terms) else None

    def differences(self, terms: Sequence[float], others: Sequence[float]) -> list[float]:
        """For each sample, the term of one mask minus that of another; 0 if the two differ by `ties` or less."""
        differences = (a - b for a, b in zip(terms, others, strict=True))
        return [difference if abs(difference) > self.ties else 0.0 for difference in differences]

    def freedom(self, terms: Sequence[float]) -> float:
        """The degrees of freedom of `error`.

        If a part with a share above 0 has only one sample, the error of that part is unknown, and the result is 0.

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


def plus_minus(error: float | None) -> str:
    """The words for a standard error after a value; `error` is None if it is unknown."""
    return "± unknown" if error is None else f"± {error:.4f}"


def standard_error(values: Sequence[float]) -> float:
    """Standard error of a plain mean: sample standard deviation (ddof 1) / sqrt(count); 0 for one value."""
    return math.sqrt(_variance(values, [1.0] * len(values)))
