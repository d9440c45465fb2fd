"""A mixture of two other objectives. It shows whether one mask can be good for both objectives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from pruning.core.errors import InputError, unknown
from pruning.core.mask import Mask
from pruning.core.records import settings_classes
from pruning.objective import Forward, Loss, Objective, Samples, Scored

Join = Callable[[Sequence[Any], Sequence[Any]], list[Any]]  # two lists -> one list, a value per sample


@dataclass(frozen=True)
class Weighted:
    """(1 - weight) * first + weight * second. Both objectives have their default settings. Source: none.

    Losses are mixed in their original units, which are nats per token for perplexity and margin. If both
    objectives use the same samples, terms are mixed sample by sample. If one needs text and the other items,
    the calibration must be of kind "both". One objective then gives the terms of windows, the other gives
    those of items, and the loss mixes the two means.
    """

    first: str = "perplexity"
    second: str = "margin"
    weight: float = 0.5

    def __post_init__(self) -> None:
        for key in ("first", "second"):
            if (name := getattr(self, key)) not in parts():
                raise unknown(f"objective.{key}", name, parts())
        if not 0 <= self.weight <= 1:
            raise InputError(
                f"objective.weight={self.weight:g} is out of range: choose from 0 (first) to 1 (second)."
            )

    @property
    def needs(self) -> str:
        """The kind of samples that the two objectives need; "both" if one needs text and the other needs items."""
        kinds = {parts()[name]().needs for name in (self.first, self.second)} - {"any"}
        return "both" if len(kinds) > 1 else next(iter(kinds), "any")

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over the samples of both objectives, with one term per sample."""
        objectives = [parts()[self.first](), parts()[self.second]()]
        shares = (1 - self.weight, self.weight)
        if samples.kind != "both":

            def mixed(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
                return [shares[0] * x + shares[1] * y for x, y in zip(a, b, strict=True)]

            losses = [part.bind(forward, samples) for part in objectives]
            return Loss(samples.estimate(), *_joined(losses, mixed))

        (text, of_text), (items, of_items) = sorted(
            zip(objectives, shares, strict=True), key=lambda pair: pair[0].needs != "text"
        )

        def in_order(windows: Sequence[Any], answers: Sequence[Any]) -> list[Any]:
            left = {True: iter(windows), False: iter(answers)}
            return [next(left[unit[0].item is None]) for unit in samples.units]

        losses = []
        for part, own in ((text, samples.only("text")), (items, samples.only("items"))):
            loss = part.bind(forward, own)
            if not own.rows:  # a part of the samples can lack one of the two kinds
                loss = Loss(loss.estimate, lambda masks: ((mask, (), 0.0) for mask in masks), loss.gates)
            losses.append(loss)
        return Loss(samples.estimate((of_text, of_items)), *_joined(losses, in_order))


def parts() -> dict[str, type[Objective]]:
    """The objectives that can be mixed, by name."""
    classes = settings_classes("pruning.objective", "bind")
    return {name: cast(type[Objective], cls) for name, cls in classes if cls is not Weighted}


def _joined(losses: Sequence[Loss], join: Join) -> tuple[Any, Any]:
    """The joined terms of two losses, and their joined gradients (None if a loss has no gradient).

    A mask is yielded as soon as both losses have scored it.
    """

    def terms(masks: Sequence[Mask]) -> Scored:
        waiting: tuple[dict[Mask, tuple[Sequence[float], float]], ...] = ({}, {})
        for pair in zip(*(loss.terms(masks) for loss in losses), strict=True):
            for scored, (mask, values, seconds) in zip(waiting, pair, strict=True):
                scored[mask] = values, seconds
            for mask in waiting[0].keys() & waiting[1].keys():
                (a, seconds), (b, more) = (scored.pop(mask) for scored in waiting)
                yield mask, join(a, b), seconds + more

    first, second = (loss.gates for loss in losses)
    if first is None or second is None:
        return terms, None
    return terms, lambda unit: np.array(join(list(first(unit)), list(second(unit))))
