"""Objectives: classes with settings, which define the loss of a mask for a model and samples.

A lower loss is always better. torch is imported inside functions, so that composing a configuration is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from pruning.core.mask import Mask
from pruning.core.scoring import Estimate, Score

if TYPE_CHECKING:  # re-exported: objectives import the types of their annotations from here
    from torch import Tensor as Tensor

    from pruning.calibration.samples import Row as Row
    from pruning.calibration.samples import Samples as Samples
    from pruning.engine.forward import Forward as Forward
    from pruning.engine.head import Distributions as Distributions
else:
    Distributions = Forward = Row = Samples = Tensor = Any

# Yields (mask, one term per sample, seconds to score the mask) as soon as a mask is scored, in any order.
Scored: TypeAlias = Iterator[tuple[Mask, Sequence[float], float]]
Terms: TypeAlias = Callable[[Sequence[Mask]], Scored]
# Maps the kind of units to the answer to `pruning.algo.Gates`, an array (samples, N).
Gradient: TypeAlias = Callable[[str], np.ndarray[Any, Any]]


class Objective(Protocol):
    """The interface of every objective."""

    @property
    def needs(self) -> str:
        """The kind of samples that the objective needs: "text", "items", "any" (either kind), or "both"."""
        ...

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss of this model's masks on these samples. Nothing is computed before the loss is called."""
        ...


@dataclass(frozen=True)
class Loss:
    """An objective bound to a model and samples. A call with masks yields each mask's score when it is computed.

    `bounds` yields lower bounds of `terms` in less time; `bounds` is None if the objective has no bounds.
    """

    estimate: Estimate
    terms: Terms
    gates: Gradient | None = None
    bounds: Terms | None = None

    def __call__(self, masks: Sequence[Mask]) -> Iterator[Score]:
        """Yield one score per mask, in any order."""
        for mask, terms, seconds in self.terms(masks):
            yield self.estimate.score(mask, terms, seconds)


def mapped(
    rows: Iterable[tuple[Mask, list[float], float]], terms: Callable[[list[float]], Sequence[float]]
) -> Scored:
    """Yield each mask with the samples' terms, which `terms` computes from the rows' values."""
    for mask, values, seconds in rows:
        yield mask, terms(values), seconds


@dataclass(frozen=True)
class Calibrated:
    """An objective's loss on all samples of a cell, and on parts of these samples."""

    objective: Objective
    forward: Forward
    samples: Samples
    _parts: dict[tuple[int, int], Loss] = field(default_factory=dict, init=False, compare=False)

    @cached_property
    def whole(self) -> Loss:
        """The loss over all samples."""
        return self.objective.bind(self.forward, self.samples)

    def part(self, start: int, stop: int) -> Loss:
        """The loss over the samples start..stop-1. Each part is bound only once."""
        if (start, stop) == (0, self.whole.estimate.count):
            return self.whole
        if (start, stop) not in self._parts:
            self._parts[start, stop] = self.objective.bind(self.forward, self.samples.part(start, stop))
        return self._parts[start, stop]

    @property
    def in_half(self) -> bool:
        """Whether the model is in half precision, so that rounding can decide between two masks."""
        from pruning.engine.dense_pass import HALVES

        return self.forward.model.module.dtype in HALVES

    def in_float32(self) -> Calibrated | None:
        """The losses in float32, or None if `dense_pass.in_float32` returns None."""
        from pruning.engine.dense_pass import in_float32

        single = in_float32(self.forward)
        return None if single is None else replace(self, forward=single)
