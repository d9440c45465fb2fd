"""Objectives. Each file holds one: a frozen dataclass of settings that turns a model and samples into a loss.

Lower is better, always. torch is imported inside `bind`, so that composing a configuration stays fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

from pruning.mask import Mask
from pruning.scores import Score

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.forward import Forward

# Yields each score as soon as it is known, in any order, so that a kill loses at most one evaluation.
LossFn: TypeAlias = Callable[[Sequence[Mask]], Iterator[Score]]


class Objective(Protocol):
    """What every objective offers."""

    needs: ClassVar[str]  # the kind of calibration that it can read: "text" or "items"

    def bind(self, forward: Forward, samples: Samples) -> LossFn:
        """The loss of masks of this model on these samples."""
        ...


def mean(values: Iterable[float]) -> float:
    """Mean in float64 by exact summation, whatever the order of the terms; NaN if a term is infinite."""
    terms = [float(value) for value in values]
    return math.fsum(terms) / len(terms) if all(map(math.isfinite, terms)) else math.nan
