"""Settings of searches that make no sense are refused, by name and value."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.algo.annealing import Annealing
from pruning.algo.bayesian import Bayesian
from pruning.algo.beam import Beam
from pruning.algo.cbo import Cbo
from pruning.algo.cbo_hessian import CboHessian
from pruning.algo.evolution import Evolution
from pruning.algo.exhaustive import Exhaustive
from pruning.algo.fast_block_select import FastBlockSelect
from pruning.algo.genetic import Genetic
from pruning.algo.greedy import Greedy
from pruning.algo.one_shot import OneShot
from pruning.algo.random import Random
from pruning.core.errors import InputError

REFUSED: list[tuple[type, dict[str, Any], str]] = [
    *((Annealing, {name: value}, f"algo.{name}={value:g}") for name, value in [("chains", 0), ("steps", -1)]),
    *(
        (Annealing, {name: value}, f"algo.{name}={value:g}")
        for name, value in [("heat", 0.0), ("cooling", 1.1)]
    ),
    (Annealing, {"temperature": -1.0}, "algo.temperature=-1"),
    *(
        (Bayesian, {name: 0}, f"algo.{name}=0")
        for name in ("trials", "random", "batch", "elite", "temperature")
    ),
    (Bayesian, {"kappa": -1.0}, "algo.kappa=-1"),
    (Beam, {"width": 0}, "algo.width=0"),
    *((kind, {"lazy": risk}, f"algo.lazy={risk:g}") for kind in (Beam, Greedy) for risk in (0.0, 1.0, -0.1)),
    *((kind, {"rank": "size"}, "algo.rank=size") for kind in (Beam, Greedy, OneShot)),
    *((kind, {name: -1}, f"algo.{name}=-1") for kind in (Cbo, CboHessian) for name in ("rescore", "exact")),
    (Evolution, {"within": "block"}, "algo.within=block"),
    *((Evolution, {name: 0}, f"algo.{name}=0") for name in ("offspring", "initial", "swaps")),
    (Evolution, {"generations": -1}, "algo.generations=-1"),
    (Evolution, {"samples": (4, 8)}, "algo.samples=(4, 8) and algo.survivors=(2,)"),
    (Evolution, {"samples": (0,)}, "algo.samples=(0,)"),
    (Evolution, {"samples": (8, 4), "survivors": (8, 2)}, "algo.samples=(8, 4)"),
    (Evolution, {"survivors": (33,)}, "algo.survivors=(33,)"),
    (Evolution, {"survivors": (0,)}, "algo.survivors=(0,)"),
    *((Exhaustive, {name: 0}, f"algo.{name}=0") for name in ("limit", "batch")),
    (FastBlockSelect, {"candidates": 0}, "algo.candidates=0"),
    *(
        (Genetic, {name: value}, f"algo.{name}={value}")
        for name, value in [("population", 1), ("generations", -1)]
    ),
    *((Genetic, {name: 0}, f"algo.{name}=0") for name in ("tournament", "temperature")),
    *((Genetic, {"elitism": value}, f"algo.elitism={value:g}") for value in (1.0, -0.1)),
    *((Genetic, {"mutation": value}, f"algo.mutation={value:g}") for value in (1.5, -0.1)),
    (Genetic, {"mutates": "gene"}, "algo.mutates=gene"),
    (Random, {"trials": 0}, "algo.trials=0"),
]


@pytest.mark.parametrize(("kind", "settings", "named"), REFUSED)
def test_invalid_settings_are_refused(kind: type, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as caught:
        kind(**settings)
    assert str(caught.value).startswith(f"{named} ")
