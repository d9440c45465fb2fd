"""The weights through which a sub-layer writes are found by structure: as few as possible, and the last ones."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.core.errors import UnskippableError
from pruning.models import output_maps as module
from pruning.models.output_maps import output_weights
from tests.helpers.architectures import LAST, SEQUENTIAL, build


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_output_projections_are_found(name: str) -> None:
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = output_weights(model, [2, 3])
    for unit, pattern in zip((2, 3), LAST.values(), strict=True):
        block = next(b for path, b in model.named_modules() if re.search(r"\.(layers|h|blocks)\.1$", path))
        wanted = {key for key, _ in block.named_parameters() if re.search(pattern, f".{key}")}
        assert set(found[unit]) == wanted
        assert wanted
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_dead_units_do_not_matter() -> None:
    """With these values, the output is zero already if the bias alone is zero."""
    model = build("opt")
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.fc1.weight.zero_()
            layer.fc1.bias.fill_(-1.0)  # the units are dead
            layer.fc2.bias.fill_(1.0)
    assert output_weights(model, [3])[3] == ("fc2.weight", "fc2.bias")


class Experts(nn.Module):
    """A router that sends every token to one of sixteen experts, and an expert for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = Expert()
        self.experts = nn.ModuleList(Expert() for _ in range(16))
        self.gate = nn.Linear(8, 16)

    def forward(self, hidden: Tensor) -> Tensor:
        chosen = self.gate(hidden).argmax(-1)
        parts = [self.experts[int(i)](row) for i, row in zip(chosen, hidden, strict=True)]
        return torch.stack(parts) + self.shared(hidden)


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 8)  # defined before the weights that are used first
        self.first = nn.Linear(8, 4)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.last(self.first(hidden))
        return output


def test_experts_that_saw_no_token_are_found_as_well() -> None:
    last = module._last(Experts(), (torch.randn(3, 8),), {})
    names = ["shared", *(f"experts.{i}" for i in range(16))]
    assert set(last) == {f"{name}.last.{kind}" for name in names for kind in ("weight", "bias")}


def test_only_the_last_of_several_layers_is_found() -> None:
    stack = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    assert module._last(stack, (torch.randn(2, 4),), {}) == ["2.weight", "2.bias"]


class Constant(nn.Linear):
    """A module that adds more than its weights give."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden) + 1


def test_a_module_that_no_zeros_switch_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._last(Constant(4, 4), (torch.randn(2, 4),), {}) == []

    def nothing(*_: Any) -> list[str]:
        return []

    monkeypatch.setattr(module, "_last", nothing)
    with pytest.raises(
        UnskippableError, match=r"the attention of block 1 \(LlamaAttention\) does not return"
    ):
        output_weights(build("llama"), [2])
