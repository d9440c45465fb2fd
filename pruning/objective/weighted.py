"""Weighted: a mixture of two other objectives.

Source: none. The paper compares single objectives. A mixture shows whether a mask can be good for both objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pruning.core.errors import InputError, unknown
from pruning.core.mask import Mask
from pruning.core.terminal import settings_classes
from pruning.objective import Gradient, Loss, Objective, Terms

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.engine.forward import Forward

Join = Callable[[Sequence[Any], Sequence[Any]], list[Any]]  # joins two lists; one value per sample


@dataclass(frozen=True)
class Weighted:
    """(1 - weight) * first + weight * second. Both objectives have their default settings.

    Losses are mixed in their original units, which are nats per token for perplexity and margin. If both objectives
    use the same samples, terms are mixed sample by sample. If one needs text and the other needs items, a calibration
    of kind "both" is required: one objective gives the terms of windows, the other those of items, and the loss is
    the mixture of the two means.
    """

    first: str = "perplexity"
    second: str = "margin"
    weight: float = 0.5

    def __post_init__(self) -> None:
        for key in ("first", "second"):
            if (name := getattr(self, key)) not in names():
                raise unknown(f"objective.{key}", name, names())
        if not 0 <= self.weight <= 1:
            raise InputError(
                f"objective.weight={self.weight:g} is out of range: choose from 0 (first) to 1 (second)."
            )

    @property
    def needs(self) -> str:
        """The kind of samples that the two objectives need; "both" if one needs text and the other needs items."""
        kinds = {part.needs for part in self._parts()} - {"any"}
        return "both" if len(kinds) > 1 else next(iter(kinds), "any")

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over the samples of both objectives, with one term per sample."""
        first, second = self._parts()
        shares = (1 - self.weight, self.weight)
        if samples.kind == "both":
            return _apart(forward, samples, (first, second), shares)

        def mixed(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
            return [shares[0] * x + shares[1] * y for x, y in zip(a, b, strict=True)]

        losses = (first.bind(forward, samples), second.bind(forward, samples))
        return Loss(samples.estimate(), _terms(losses, mixed), _gates(losses, mixed))

    def _parts(self) -> tuple[Objective, Objective]:
        return named(self.first), named(self.second)


def names() -> list[str]:
    """The names of the objectives that can be mixed."""
    return sorted(_classes())


def named(name: str) -> Objective:
    """The objective that the file `name` of this folder defines, with its default settings."""
    return cast(Objective, _classes()[name]())


def _classes() -> dict[str, type]:
    classes = settings_classes("pruning.objective", "bind")
    return {name: cls for name, cls in classes if cls is not Weighted}


def _apart(
    forward: Forward, samples: Samples, parts: Sequence[Objective], shares: tuple[float, float]
) -> Loss:
    """The loss on samples of both kinds: one objective on the windows, the other on the items."""
    (text, of_text), (items, of_items) = sorted(
        zip(parts, shares, strict=True), key=lambda pair: pair[0].needs != "text"
    )
    is_text = [unit[0].item is None for unit in samples.units]

    def in_order(windows: Sequence[Any], answers: Sequence[Any]) -> list[Any]:
        text, items = iter(windows), iter(answers)
        return [next(text) if window else next(items) for window in is_text]

    losses = tuple(
        _or_empty(part.bind(forward, part_samples), part_samples)
        for part, part_samples in ((text, samples.only("text")), (items, samples.only("items")))
    )
    estimate = samples.estimate((of_text, of_items))
    return Loss(estimate, _terms(losses, in_order), _gates(losses, in_order))


def _or_empty(loss: Loss, samples: Samples) -> Loss:
    """The loss; if there are no samples, a loss without terms.

    A part of the samples can lack one of the two kinds.
    """
    if samples.rows:
        return loss
    return Loss(loss.estimate, lambda masks: ((mask, (), 0.0) for mask in masks), loss.gates)


def _terms(losses: Sequence[Loss], join: Join) -> Terms:
    """The joined terms of both losses; a mask is yielded as soon as both have scored it."""

    def terms(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
        waiting: tuple[dict[Mask, tuple[Sequence[float], float]], ...] = ({}, {})
        for pair in zip(*(loss.terms(masks) for loss in losses), strict=True):
            for scored, (mask, values, seconds) in zip(waiting, pair, strict=True):
                scored[mask] = values, seconds
            for mask in waiting[0].keys() & waiting[1].keys():
                (a, seconds), (b, more) = (scored.pop(mask) for scored in waiting)
                yield mask, join(a, b), seconds + more

    return terms


def _gates(losses: Sequence[Loss], join: Join) -> Gradient | None:
    """The joined gradients of both losses, or None if either loss has no gradient."""
    first, second = (loss.gates for loss in losses)
    if first is None or second is None:
        return None
    return lambda unit: np.array(join(list(first(unit)), list(second(unit))))
