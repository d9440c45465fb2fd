"""Settings of searches that make no sense are refused, by name and value."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.config.groups import members
from pruning.core.errors import InputError

WRONG: dict[str, dict[str, list[Any]]] = {
    "Annealing": {"chains": [0], "steps": [-1], "heat": [0.0], "cooling": [1.1], "temperature": [-1.0]},
    "Bayesian": {**{name: [0] for name in ("trials", "random", "batch", "elite", "temperature")}, "kappa": [-1.0]},
    "Beam": {"width": [0], "lazy": [0.0, 1.0, -0.1], "rank": ["size"]},
    "Cbo": {"rescore": [-1]},
    "CboHessian": {"rescore": [-1]},
    "Evolution": {
        **{name: [0] for name in ("offspring", "initial", "swaps")},
        **{"within": ["block"], "generations": [-1], "samples": [(4, 8), (0,)], "survivors": [(33,), (0,)]},
    },
    "Exhaustive": {"limit": [0]},
    "FastBlockSelect": {"candidates": [0]},
    "Genetic": {
        **{"population": [1], "generations": [-1], "tournament": [0], "temperature": [0]},
        **{"elitism": [1.0, -0.1], "mutation": [1.5, -0.1]},
    },
    "Greedy": {"lazy": [0.0, 1.0, -0.1], "rank": ["size"]},
    "OneShot": {"rank": ["size"]},
    "Random": {"trials": [0]},
}  # fmt: skip
CASES = [(kind, {name: value}) for kind, wrong in WRONG.items() for name in wrong for value in wrong[name]]
KINDS = {cls.__name__: cls for _, cls in members("algo")}


@pytest.mark.parametrize(
    ("kind", "settings"), [*CASES, ("Evolution", {"samples": (8, 4), "survivors": (8, 2)})]
)
def test_invalid_settings_are_refused(kind: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        KINDS[kind](**settings)
    name, value = next(iter(settings.items()))
    assert f"algo.{name}" in str(caught.value)
    assert (f"{value:g}" if isinstance(value, float) else str(value)) in str(caught.value)
