"""Folding a map into weights equals applying it to what a sub-layer adds; the last weights are found by structure."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from pruning.core.errors import InputError, UnskippableError
from pruning.models import output_maps as maps_module
from pruning.models.blocks import enter
from pruning.models.output_maps import Repair, find_fold, output_weights, read_repair, repaired
from pruning.models.sublayers import find_chain
from tests.helpers.architectures import ARCHITECTURES, IDS, LAST, PARALLEL, SEQUENTIAL, WIDE, build


@pytest.fixture(scope="module", params=SEQUENTIAL)
def model(request: pytest.FixtureRequest) -> Any:
    """In float64 unless its experts cannot be, with random biases and norms, so that none is 0 or 1."""
    module = build(request.param)
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.1, mean=0.0 if name.endswith("bias") else 0.7)
    return module if module.config.model_type in WIDE else module.double()


def added(model: Any, unit: int) -> torch.Tensor:
    with torch.no_grad():
        entry = enter(model, input_ids=IDS)
        return find_chain(model, "sublayer").run(unit, entry.hidden, entry) - entry.hidden


def change(form: str, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn((width, width) if form == "linear" else (width,), generator=generator)


@pytest.mark.parametrize("unit", [2, 3, 8, 11])
def test_folding_equals_applying_the_map(model: Any, unit: int) -> None:
    fold = find_fold(model, unit)
    given = change(fold.form)
    plain = added(model, unit)
    expected = plain * given.to(plain) if given.dim() == 1 else plain @ given.to(plain)
    with repaired(model, Repair({unit: given})):
        actual = added(model, unit)
    exact = plain.dtype == torch.float64 and fold.why is None  # Gemma's norms compute in float32
    tolerance = 1e-12 if exact else 1e-5
    assert (actual - expected).norm() <= tolerance * expected.norm()
    assert (actual - plain).norm() > 0.1 * plain.norm(), "the map made no difference"
    assert torch.equal(added(model, unit), plain)


def test_only_a_diagonal_map_fits_behind_a_norm() -> None:
    fold = find_fold(build("gemma3"), 3)
    assert fold.form == "diagonal"
    assert "normalises" in (fold.why or "")
    assert fold.axes == (("model.layers.1.post_feedforward_layernorm.weight", 0, 1.0),)
    with pytest.raises(InputError, match=r" m1 .*normalises"):
        repaired(build("gemma3"), Repair({3: change("linear")})).__enter__()


def test_a_factor_of_what_is_added_is_found() -> None:
    settings = ARCHITECTURES["llama"][1] | {"residual_multiplier": 0.22, "initializer_range": 0.2}
    torch.manual_seed(0)
    module = (
        transformers.AutoModelForCausalLM.from_config(transformers.GraniteConfig(**settings)).eval().double()
    )
    for unit in (2, 3):
        fold = find_fold(module, unit)
        assert (fold.form, fold.factor) == ("linear", pytest.approx(0.22))
        plain, given = added(module, unit), change("linear")
        with repaired(module, Repair({unit: given})):
            assert torch.allclose(added(module, unit), plain @ given.double(), atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_the_same_weights_are_found_in_every_precision(name: str, dtype: torch.dtype) -> None:
    expected, found = (find_fold(build(name).to(one), 3) for one in (torch.float64, dtype))
    assert (found.form, found.factor, found.axes) == (expected.form, expected.factor, expected.axes)


@pytest.mark.parametrize("name", PARALLEL)
def test_sub_layers_that_take_no_map_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"same state.*compensation=magnitude"):
        find_fold(build(name), 3)


def test_weights_are_restored_after_an_error() -> None:
    module = build("llama")
    before = {name: (value.clone(), value.data_ptr()) for name, value in module.state_dict().items()}
    maps = Repair({3: change("linear"), 8: change("linear")})
    with suppress(ZeroDivisionError), repaired(module, maps):
        name = "model.layers.1.mlp.down_proj.weight"
        assert not torch.equal(module.get_parameter(name), before[name][0])
        raise ZeroDivisionError
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name][0])
        assert value.data_ptr() == before[name][1]


def test_a_repair_is_read_as_it_was_saved(tmp_path: Any) -> None:
    repair = Repair({8: change("diagonal"), 3: change("linear")})
    repair.save(tmp_path)
    read = read_repair(tmp_path, repair.sha256)
    assert read.names() == ("m1", "a4")
    assert all(torch.equal(read.maps[unit], repair.maps[unit]) for unit in (3, 8))
    assert Repair({3: change("linear")}).sha256 != repair.sha256 != Repair({9: change("diagonal")}).sha256


# The weights through which a sub-layer writes.


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_output_projections_are_found(name: str) -> None:
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = output_weights(model, [2, 3])
    block = next(b for path, b in model.named_modules() if re.search(r"\.(layers|h)\.1$", path))
    for unit, pattern in zip((2, 3), LAST.values(), strict=True):
        wanted = {key for key, _ in block.named_parameters() if re.search(pattern, f".{key}")}
        assert set(found[unit]) == wanted
        assert wanted
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_module_that_no_zeros_switch_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps_module, "_last", lambda *_: [])
    with pytest.raises(UnskippableError, match=r"block 1 \(LlamaAttention\)"):
        output_weights(build("llama"), [2])
