"""Stop a search after `max_evaluations` distinct masks; even then, return a mask of the space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pruning.algo import Algo, Ask, Found, Gates, Proposals, Request
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.space import Space


def check_budget(algo: Algo) -> None:
    """Raise InputError if `max_evaluations` is below 1."""
    if algo.max_evaluations is not None and algo.max_evaluations < 1:
        raise InputError(
            f"algo.max_evaluations={algo.max_evaluations} allows no evaluation: "
            "choose at least 1, or null for no limit."
        )


def evaluations(algo: Algo, space: Space) -> int:
    """An upper bound on the number of losses that a search asks for within its budget."""
    most = algo.evaluations(space)
    return most if algo.max_evaluations is None else min(most, algo.max_evaluations)


@dataclass
class _Spent:
    """The distinct masks that a search has asked for, and their losses.

    `masks` includes masks that were scored on a part of the samples; `losses` contains only losses over all samples.
    """

    limit: float
    masks: dict[Mask, None] = field(default_factory=dict)
    losses: dict[Mask, float] = field(default_factory=dict)
    gates: np.ndarray[Any, Any] | None = None

    def affordable(self, request: Ask) -> list[Mask]:
        """Add masks of a request to `masks`, in order, until the budget is spent. Returns the allowed masks."""
        chosen = []
        for mask in request.masks:
            if mask not in self.masks and len(self.masks) >= self.limit:
                break
            self.masks[mask] = None
            chosen.append(mask)
        return chosen


def proposals(algo: Algo, space: Space, rng: np.random.Generator) -> Proposals:
    """Yield the requests of a search until the search ends or its budget is spent."""
    limit = math.inf if algo.max_evaluations is None else algo.max_evaluations
    search, spent, answer = algo.propose(space, rng), _Spent(limit), None
    while True:
        try:
            request: Request = search.send(answer)
        except StopIteration as end:
            outcome: Found = end.value
            return outcome
        masks = _singles(space) if isinstance(request, Gates) else request.masks
        chosen = spent.affordable(Ask(masks))
        if len(chosen) < len(masks):
            part = Ask(chosen, None, request.samples if isinstance(request, Ask) else None)
            if chosen and part.samples is None:
                spent.losses.update(zip(chosen, (yield part), strict=True))
            return Found(completed(space, spent.losses, spent.gates), f"max_evaluations={limit} was reached")
        answer = yield request
        if isinstance(request, Gates):
            spent.gates = answer
        elif request.samples is None:
            spent.losses.update(zip([*request.known, *request.masks], answer, strict=True))


def completed(space: Space, losses: Mapping[Mask, float], gates: np.ndarray[Any, Any] | None = None) -> Mask:
    """The best evaluated mask of the space; failing that, the largest evaluated mask plus the cheapest single units.

    The largest mask is the mask that removes the most units; if there are several, the one with the lowest loss is
    extended. The cheapest unit is the unit whose removal alone gives the lowest loss. On a budget, the largest mask
    is the one of several units that cost most, and the cheapest unit has the least rise of the loss per cost. Units
    that were never removed alone are added last. They are ordered by the rise of the loss that the gates' gradients
    predict, smallest rise first.
    """

    def size(mask: Mask) -> float:
        return math.inf if space.complete(mask) else space.cost(*mask.dropped)

    # On a budget, a single unit that costs much is no start: it may be expensive for what it costs.
    few = 0 if space.budget is None else 1
    inside = [m for m in losses if space.complete(m) or len(m.dropped) > few]
    best = min(
        filter(space.extendable, inside), key=lambda mask: (-size(mask), losses[mask]), default=space.dense
    )
    rises = np.zeros(space.n_units) if gates is None else -gates.mean(axis=0)
    dense = losses.get(space.dense)

    def alone(i: int) -> tuple[float, float]:
        loss = losses.get(space.drop(i), math.inf)
        rate = loss if dense is None else space.per_cost(loss - dense, i)
        return rate, space.per_cost(float(rises[i]), i)

    return space.filled(best.dropped, sorted(space.free(best.dropped), key=alone))


def _singles(space: Space) -> list[Mask]:
    """The masks that `Gates` scores if the objective has no gradient: each removes one unprotected unit."""
    return [space.drop(i) for i in space.free()]
