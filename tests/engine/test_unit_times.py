"""Seconds of units, on a clock that the layers of a tiny model turn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pruning.engine import dense_pass as module
from tests.helpers.architectures import N_BLOCKS, build
from tests.helpers.rows import language_model

SHAPE = (2, 7)


class Clock:
    """Sub-layer i of the model takes i + 1 seconds, ten times as many in the first turn and in the third."""

    def __init__(self, model: Any, units: int) -> None:
        self.now, self.reads, self.units, self.shapes = 0.0, 0, units, set[tuple[int, ...]]()
        layers = [
            part for block in model.model.layers for part in (block.self_attn.q_proj, block.mlp.up_proj)
        ]
        for number, layer in enumerate(layers):
            layer.register_forward_pre_hook(self.hook(number + 1))

    def hook(self, seconds: float) -> Any:
        def ran(_: Any, inputs: tuple[torch.Tensor]) -> None:
            if self.reads:
                # The clock is read before each unit, and after the first turn also behind it.
                turn = (self.reads + self.units - 1) // (2 * self.units)
                self.now += seconds * (10 if turn in (0, 2) else 1)
                self.shapes.add(tuple(inputs[0].shape[:2]))

        return ran

    def read(self) -> float:
        self.reads += 1
        return self.now


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("sublayer", [float(i) for i in range(1, 2 * N_BLOCKS + 1)]),
        ("block", [float(4 * i + 3) for i in range(N_BLOCKS)]),
    ],
)
def test_each_unit_gets_its_median_without_the_first_turn(
    unit: str, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("llama")
    clock = Clock(model, len(expected))
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=clock.read))
    assert module.unit_times(language_model(model), unit, SHAPE, repeats=3) == pytest.approx(expected)
    assert clock.shapes == {SHAPE}
