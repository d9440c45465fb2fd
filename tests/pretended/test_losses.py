"""On pretended GPUs, the losses are the CPU's, and the program waits for a GPU once per batch of masks at most."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.config.groups import options
from pruning.core.errors import InputError
from pruning.objective import Objective
from tests.helpers.architectures import build
from tests.helpers.objectives import MASKS, bound, samples, scores
from tests.helpers.searches import composed
from tests.pretended.placed import PLACES, gpus, placed


def losses(objective: Objective, module: Any, kind: str) -> list[float]:
    found = scores(bound(objective, module, samples(kind)), MASKS)
    return [found[mask].loss for mask in MASKS]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", options("objective"))
def test_every_objective_gives_the_losses_of_the_cpu(name: str, place: str) -> None:
    objective: Objective = composed("objective")[name]
    kind = "text" if objective.needs == "any" else objective.needs
    expected = losses(objective, build("llama"), kind)
    with gpus():
        module = placed(place)
        if place == "offloaded" and name.startswith("taylor"):
            with pytest.raises(InputError, match="offloaded"):
                losses(objective, module, kind)
            return
        found = losses(objective, module, kind)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
