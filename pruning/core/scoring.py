"""The score of a mask: its loss under one objective, with a term for each sample."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from pruning.core import storage
from pruning.core.errors import InputError, LossError
from pruning.core.mask import Mask


@dataclass(frozen=True, slots=True)
class Score:
    """The loss of one mask under one objective, and the terms of the samples; a lower loss is better."""

    mask: Mask
    loss: float
    samples: tuple[float, ...]
    seconds: float  # 0 if another cell has computed the loss
    of: int | None = None  # the number of all samples, if this score covers only the first ones
    parts: int = 1  # number of parts in which the samples were scored; affects batches and rounding

    def __post_init__(self) -> None:
        if not math.isfinite(self.loss):
            if not self.mask.dropped:
                raise LossError(f"the loss of the whole model is {self.loss}: try model.dtype=float32.")
            raise LossError(
                f"the loss is {self.loss} with {self.mask.described()} removed: "
                "protect those blocks (protect.first, protect.last), or try model.dtype=float32."
            )

    def to_line(self) -> TraceLine:
        """This score as a line of `trace.jsonl`."""
        line: TraceLine = {
            "dropped": list(self.mask.dropped),
            "loss": self.loss,
            "samples": list(self.samples),
            "seconds": max(round(self.seconds, 6), 1e-6) if self.seconds else 0.0,
        }
        if self.of is not None:
            line["of"] = self.of
        if self.parts > 1:
            line["parts"] = self.parts
        return line

    @classmethod
    def from_line(cls, line: TraceLine, n_blocks: int, unit: str = "block") -> Score:
        """The score in a line. Raises InputError if the line names units that the model does not have."""
        mask = Mask(n_blocks, tuple(line["dropped"]), unit)
        return cls(
            mask,
            float(line["loss"]),
            tuple(map(float, line["samples"])),
            float(line["seconds"]),
            line.get("of"),
            line.get("parts", 1),
        )

    def exceeds(self, other: Score | None) -> bool:
        """Whether this score covers more samples than `other`, the mask's earlier score; True if `other` is None."""
        return other is None or len(self.samples) > len(other.samples)


# The loss and its standard error, computed from one term per sample.
#
# A loss is a weighted mean over samples. The weight of a text window is the number of its scored tokens; items have
# equal weights. A mixed objective has two kinds of samples, called parts, and each part has a share. With parts p,
# shares a_p, samples s of part p, weights w_s and terms t_s:
#
#     loss = sum over p of  a_p * m_p        m_p = sum over s of w_s t_s / sum over s of w_s


@dataclass(frozen=True)
class Estimate:
    """What makes a loss from terms: the weight and the part of each sample, and the share of each part.

    If there are fewer terms than weights, the terms belong to the first samples. If two masks' terms of a sample
    differ by at most `ties`, tests must count the terms as equal: the difference only orders tied masks.
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

    def score(self, mask: Mask, terms: Sequence[float], seconds: float) -> Score:
        """The score of a mask that has these terms, of all samples or of the first ones."""
        whole = self.count if len(terms) < self.count else None
        return Score(mask, self.mean(terms), tuple(terms), seconds, whole)

    def first(self, score: Score, samples: int) -> Score:
        """The part of a score over its first `samples` samples."""
        if len(score.samples) == samples:
            return score
        return self.score(score.mask, score.samples[:samples], score.seconds)

    def mean(self, terms: Sequence[float]) -> float:
        """The loss. It is not finite if some term is not finite; NaN if a part with a share above 0 has no term."""
        parts = [
            share * weighted_mean(values, weights) for share, values, weights in self._by_part(terms) if share
        ]
        return math.fsum(parts) if all(map(math.isfinite, parts)) else sum(parts)

    def error(self, terms: Sequence[float], whole: int | None = None) -> float:
        """The standard error of the loss, by linearisation within each part; a part with one sample adds 0.

        If `whole` is given, the n terms are a random subset of `whole` terms, and the loss is an estimate for
        all of them. The error is then multiplied by sqrt(1 - n / whole), so it is 0 if n = whole.
        """
        rest = 1.0 if whole is None else max(0.0, 1 - len(terms) / whole)
        parts = self._by_part(terms)
        variance = math.fsum(share**2 * _variance(values, weights) for share, values, weights in parts)
        return math.sqrt(rest * variance)

    def stated_error(self, terms: Sequence[float]) -> float | None:
        """`error` as results state it: None if a part with a share above 0 has only one sample."""
        return self.error(terms) if self.freedom(terms) else None

    def differences(self, terms: Sequence[float], others: Sequence[float]) -> list[float]:
        """For each sample, the term of one mask minus that of another; 0 if the two differ by `ties` or less."""
        differences = (a - b for a, b in zip(terms, others, strict=True))
        return [difference if abs(difference) > self.ties else 0.0 for difference in differences]

    def freedom(self, terms: Sequence[float]) -> float:
        """The degrees of freedom of `error`; 0 if a part with a share above 0 has only one sample.

        With one part, this is the number of samples minus one. With several parts, it is the Welch-Satterthwaite
        number (sum v)^2 / sum (v^2 / (n - 1)), where a part with n samples adds the variance v.
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
    """The weighted mean; NaN without values. Exact sums make it independent of the order of the values."""
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
    """The text that states a standard error after a value; if `error` is None, it says `unknown`."""
    return "± unknown" if error is None else f"± {error:.4f}"


def standard_error(values: Sequence[float]) -> float:
    """Standard error of a plain mean: sample standard deviation (ddof 1) / sqrt(count); 0 for one value."""
    return math.sqrt(_variance(values, [1.0] * len(values)))


# Settings for decisions between masks (`pruning.search.decide`).

FIRST = 8  # samples on which a race first compares masks


@dataclass
class Racing:
    """`delta` is the accepted risk that a race drops the best mask of a batch; if it is None, there are no races."""

    delta: float | None = None

    def check(self) -> None:
        """Raise InputError if the risk is out of range. OmegaConf does not call `__init__`, so this is a method."""
        if self.delta is not None and not 0 < self.delta < 1:
            raise InputError(
                f"racing.delta={self.delta:g} is not between 0 and 1: choose a probability such as 0.01, or null."
            )


@dataclass
class NearTies:
    """At most `most` masks of a near tie in a decision are scored again in float32; none if `most` is 0."""

    most: int = 8

    def check(self) -> None:
        """Raise InputError if `most` is negative or 1. OmegaConf does not call `__init__`, so this is a method."""
        if self.most < 0 or self.most == 1:
            raise InputError(
                f"near_ties.most={self.most} cannot settle a tie: choose 2 or more masks, or 0 to settle none."
            )


# `trace.jsonl`, the journal of a cell: one line per score, in the order in which the search needed them. A torn last
# line is skipped, because a writer may still be completing it.

NAME = "trace.jsonl"
BOUNDS = "trace_bounds.jsonl"  # lower bounds of scores
FLOAT32 = "trace_float32.jsonl"  # float32 scores of masks in near ties


class TraceLine(TypedDict):
    """One line of the journal."""

    dropped: list[int]
    loss: float
    samples: list[float]
    seconds: float
    of: NotRequired[int]
    parts: NotRequired[int]
    scored: NotRequired[int]  # in archives: how many samples a partial score covers, in place of its terms


def scored(line: Mapping[str, Any]) -> int:
    """The number of samples that the score in a line covers."""
    return int(line.get("scored", len(line["samples"])))


@dataclass(frozen=True)
class TraceEntry:
    """A complete line: its number, from 1; its end as a byte offset; its content, None if it is damaged."""

    number: int
    end: int
    line: TraceLine | None


def read_trace(path: Path, start: int = 0) -> Iterator[TraceEntry]:
    """Yield the file's complete lines from byte `start` on; nothing if there is no file."""
    if path.exists():
        for number, (end, line) in enumerate(storage.read_lines(path, start), start=1):
            yield TraceEntry(number, end, _parsed(line))


def _parsed(text: bytes) -> TraceLine | None:
    try:
        data: Any = json.loads(text)
        numbers = [data["loss"], data["seconds"], *data["samples"]]
        valid = all(type(block) is int for block in data["dropped"]) and all(map(math.isfinite, numbers))
    except (ValueError, KeyError, TypeError):
        return None
    return cast(TraceLine, data) if valid else None
