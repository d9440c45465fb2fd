"""How much a metric of a smaller model differs from that of the dense model: a number with its error, and a word.

Both models are measured on the same windows and items, so their values are correlated. The error is
that of their mean difference over pairs, which is much smaller than the standard error of either value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pruning.core.records import DoneResult, error_of, item_hits, kept_terms, kind_of, metrics_among
from pruning.core.scoring import Estimate

CERTAIN = 2.0  # a difference counts if it is more than this many standard errors
MUCH = 1000.0  # a change of at least this many percent is shown as a factor


@dataclass(frozen=True)
class QualityChange:
    """The change of a perplexity (in percent of the dense model's) or of an accuracy (in percentage points).

    `error` is the standard error of `amount`; None if it is unknown.
    """

    amount: float
    error: float | None
    accuracy: bool

    @property
    def word(self) -> str:
        """`better` or `worse`; `within error` up to `CERTAIN` standard errors; `error unknown` if `error` is None."""
        if self.error is None:
            return "error unknown"
        if abs(self.amount) <= CERTAIN * self.error:
            return "within error"
        return "better" if (self.amount > 0) == self.accuracy else "worse"

    def __str__(self) -> str:
        if not self.accuracy and self.amount >= MUCH:
            return f"{1 + self.amount / 100:,.0f} times as high ({self.word})"
        error = "" if self.error is None else f" ± {self.error:.1f}"
        return f"{self.amount:+.1f}{error} {'points' if self.accuracy else '%'} ({self.word})"


def changes(result: DoneResult, results: Path | None, which: str = "pruned") -> dict[str, QualityChange]:
    """How much each perplexity and accuracy of another model differs from the dense model's, by metric.

    `which` is the other model: `pruned`, `uncompensated` or `healed`. `results` is the results folder, which has
    the values of each window and item. Without them, the two models' errors are combined as if independent.
    """
    evaluation = cast(Mapping[str, Any], result["evaluation"])
    dense, smaller = evaluation["dense"], evaluation[which]
    found = {}
    for name in metrics_among(smaller):
        if kind_of(name) not in ("ppl", "acc") or name not in dense:
            continue
        kept = [
            None if results is None else kept_terms(results, result, name, one) for one in ("dense", which)
        ]
        found[name] = change_of(name, (dense, smaller), [one or {} for one in kept])
    return found


def change_of(
    name: str, values: Sequence[Mapping[str, float]], terms: Sequence[Mapping[str, Any]]
) -> QualityChange:
    """The change of metric `name` from the first to the second model; `terms` has values per window or item."""
    accuracy = kind_of(name) != "ppl"
    first, second = (value[name] for value in values)
    error = _paired_error(*terms)
    if error is None and all(error_of(name) in value for value in values):
        errors = [value[error_of(name)] / (1.0 if accuracy else value[name]) for value in values]
        error = math.hypot(*errors)
    if accuracy:
        return QualityChange(100 * (second - first), None if error is None else 100 * error, True)
    ratio = second / first
    return QualityChange(100 * (ratio - 1), None if error is None else 100 * ratio * error, False)


def _paired_error(dense: Mapping[str, Any], smaller: Mapping[str, Any]) -> float | None:
    """The standard error of the models' mean difference over windows (nats per token) or items; None if unknown."""
    first, second = (
        [*map(float, terms.get("losses") or item_hits(terms) or ())] for terms in (dense, smaller)
    )
    if len(first) != len(second) or len(first) < 2:
        return None
    weights = tuple(map(float, dense.get("tokens") or [1.0] * len(first)))
    return Estimate(weights, (0,) * len(weights)).error([b - a for a, b in zip(first, second, strict=True)])
