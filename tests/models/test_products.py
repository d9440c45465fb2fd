"""Products in float32 equal those of half precision, up to one rounding."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.models import products
from pruning.models.blocks import find_blocks
from pruning.models.handle import Model
from pruning.models.products import (
    FEWEST_ROWS,
    HALVES,
    Float32Linear,
    float32_is_faster,
    for_any_rows,
    native_products,
    product,
    use_faster_products,
)
from tests.helpers.architectures import N_BLOCKS, build
from tests.helpers.rows import language_model, text_rows

ULP = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}  # of a number near 1


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The products in float32."""
    made: list[Any] = []
    monkeypatch.setattr(products, "product", lambda *given: made.append(given) or product(*given))
    return made


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "float32_is_faster", lambda _: True)


def layer(dtype: torch.dtype, *, bias: bool = True) -> Float32Linear:
    torch.manual_seed(0)
    made = nn.Linear(48, 40, bias=bias).to(dtype)
    made.__class__ = Float32Linear
    assert isinstance(made, Float32Linear)
    return made


def inputs(dtype: torch.dtype, rows: int = FEWEST_ROWS) -> Tensor:
    return torch.randn(2, rows // 2, 48, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_is_the_exact_one_rounded_once(dtype: torch.dtype, bias: bool, calls: list[Any]) -> None:
    one, x = layer(dtype, bias=bias), inputs(dtype)
    with torch.no_grad():
        given = one(x)
        exact = nn.functional.linear(x.double(), one.weight.double(), one.bias.double() if bias else None)
    assert given.dtype == dtype
    assert len(calls) == 1
    error = (given.double() - exact).abs() / exact.abs().clamp(min=1.0)
    assert error.max() <= ULP[dtype] / 2 * 1.01, "more than one rounding"


@pytest.mark.parametrize("outputs", [products.OUTPUTS, 16])  # 40 outputs: the last part is smaller
def test_gradients_are_those_of_the_layer_in_float32(outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "OUTPUTS", outputs)
    one, x = layer(torch.bfloat16), inputs(torch.bfloat16).requires_grad_()
    single = nn.Linear(48, 40)
    with torch.no_grad():
        single.weight.copy_(one.weight)
        single.bias.copy_(one.bias)
    y = x.detach().float().requires_grad_()
    direction = inputs(torch.bfloat16)[..., :40]
    out, wanted = one(x), single(y)
    assert torch.allclose(out.float(), wanted, rtol=ULP[torch.bfloat16], atol=1e-6)
    (out * direction).sum().backward()
    (wanted * direction.float()).sum().backward()
    for ours, reference in ((x, y), (one.weight, single.weight), (one.bias, single.bias)):
        assert ours.grad is not None
        assert reference.grad is not None
        assert ours.grad.dtype == torch.bfloat16
        assert torch.allclose(ours.grad.float(), reference.grad, rtol=ULP[torch.bfloat16], atol=1e-2)


@pytest.mark.parametrize("rows", [2, FEWEST_ROWS - 2])
def test_few_rows_are_multiplied_in_float32_only_if_asked(rows: int, calls: list[Any]) -> None:
    one, x = layer(torch.bfloat16), inputs(torch.bfloat16, rows)
    native = nn.functional.linear(x, one.weight, one.bias)
    with torch.no_grad():
        assert torch.equal(one(x), native)
        assert not calls
        with for_any_rows():
            assert torch.allclose(one(x), native, rtol=ULP[torch.bfloat16], atol=1e-6)
        one(x)
    assert len(calls) == 1, "the context did not begin or end"
    assert one.float()(inputs(torch.float32)).dtype == torch.float32


def test_contexts_that_overlap_leave_nothing_behind() -> None:
    first, second = for_any_rows(), for_any_rows()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert Float32Linear.fewest == 0
    second.__exit__(None, None, None)
    assert Float32Linear.fewest == FEWEST_ROWS


@pytest.mark.usefixtures("faster")
def test_only_layers_in_half_precision_are_changed_and_a_context_changes_them_back() -> None:
    assert not use_faster_products(build("llama")), "a model in float32 was changed"
    module = build("llama").to(torch.bfloat16)
    hooked = next(one for one in module.modules() if type(one) is nn.Linear)
    hooked.__dict__["_hf_hook"] = object()
    count = sum(type(one) is nn.Linear for one in module.modules())
    assert use_faster_products(module)
    changed = [one for one in module.modules() if isinstance(one, Float32Linear)]
    assert len(changed) == count - 1
    assert hooked not in changed
    with native_products(module):
        assert {type(one) for one in changed} == {nn.Linear}
    assert {type(one) for one in changed} == {Float32Linear}


@pytest.mark.usefixtures("faster")
def test_losses_of_masks_differ_by_rounding_and_not_with_other_masks() -> None:
    module, rows = build("llama").to(torch.bfloat16), text_rows(80)
    assert sum(row.span[1] - row.span[0] for row in rows) > FEWEST_ROWS
    masks = [Mask(N_BLOCKS), Mask(N_BLOCKS, (1,)), Mask(N_BLOCKS, (0, 3))]

    def sums(*asked: Mask) -> dict[Mask, list[float]]:
        forward = Forward(language_model(module))
        return {mask: values for mask, values, _ in forward.loglikelihoods(rows, asked)}

    native = sums(*masks)
    assert use_faster_products(module)
    together = sums(*masks)
    assert together != native, "no product was changed: the batch has too few rows"
    for mask in masks:
        assert sums(mask)[mask] == together[mask], "a loss depends on the other masks"
        assert together[mask] == pytest.approx(native[mask], rel=0.02)


@pytest.mark.usefixtures("faster")
def test_a_few_samples_are_multiplied_in_float32_as_all_are(calls: list[Any]) -> None:
    """A race scores parts of the samples, and compares them with losses of all samples."""
    module, rows = build("llama").to(torch.bfloat16), text_rows(80)
    assert use_faster_products(module)
    ((_, _, _),) = Forward(language_model(module)).loglikelihoods(rows[:1], [Mask(N_BLOCKS, (1,))])
    layers = sum(isinstance(one, Float32Linear) for one in module.modules())
    in_a_block = sum(isinstance(one, Float32Linear) for one in find_blocks(module).modules[0].modules())
    assert len(calls) >= layers - in_a_block, "some layer multiplied in half precision"


def test_a_model_is_loaded_so_where_float32_is_faster(
    model_folder: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Model("tiny", "local", str(model_folder))
    with caplog.at_level(logging.INFO):
        for answer in (True, False):
            monkeypatch.setattr(products, "float32_is_faster", lambda _, answer=answer: answer)
            caplog.clear()
            module = settings.load_anew().module
            assert any(isinstance(one, Float32Linear) for one in module.modules()) is answer
            assert ("float32" in caplog.text) is answer
        monkeypatch.setattr(products, "float32_is_faster", lambda _: True)
        loaded = replace(settings, products="native").load()
        assert loaded.info.products is None
        assert not any(isinstance(one, Float32Linear) for one in loaded.module.modules())
        assert settings.load().info.products == "float32", "the setting was ignored"
    assert replace(settings, products="native").identity() == settings.identity()
    with pytest.raises(InputError, match=r"model\.products 'single'.* auto, native"):
        replace(settings, products="single")


def test_the_measurement_leaves_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.bfloat16: 2.0, torch.float16: 1.2, torch.float32: 1.0}
    threads = torch.get_num_threads()
    monkeypatch.setattr(products, "_seconds", lambda dtype: seconds[dtype])
    float32_is_faster.cache_clear()
    try:
        assert float32_is_faster(torch.bfloat16)
        assert not float32_is_faster(torch.float16), "a small lead is noise"
    finally:
        float32_is_faster.cache_clear()
    assert torch.get_num_threads() == threads
