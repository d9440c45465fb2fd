"""Products in float32 equal those of half precision, up to one rounding, with their gradients."""

from __future__ import annotations

import logging
from collections import Counter
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
    _outer,
    _times,
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
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each way to multiply in float32 was called."""
    calls: Counter[str] = Counter()
    for name in ("product", "_times", "_outer"):
        whole = getattr(products, name)

        def call(*given: Any, name: str = name, whole: Any = whole) -> Tensor:
            calls[name] += 1
            result: Tensor = whole(*given)
            return result

        monkeypatch.setattr(products, name, call)
    return calls


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
def test_a_product_is_the_exact_one_rounded_once(
    dtype: torch.dtype, bias: bool, counted: Counter[str]
) -> None:
    one, x = layer(dtype, bias=bias), inputs(dtype)
    with torch.no_grad():
        given = one(x)
        exact = nn.functional.linear(x.double(), one.weight.double(), one.bias.double() if bias else None)
    assert given.dtype == dtype
    assert counted == {"product": 1}
    error = (given.double() - exact).abs() / exact.abs().clamp(min=1.0)
    assert error.max() <= ULP[dtype] / 2 * 1.01, "more than one rounding"


def test_the_outputs_of_a_large_vocabulary_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    one, x = layer(torch.bfloat16), inputs(torch.bfloat16)
    grad = inputs(torch.bfloat16)[..., :40]
    rows = grad.flatten(0, -2), x.flatten(0, -2)

    def all_three() -> tuple[Tensor, ...]:
        return product(x, one.weight, one.bias), _times(grad, one.weight), _outer(*rows)

    whole = all_three()
    assert whole[1].shape == x.shape
    assert whole[2].shape == one.weight.shape
    monkeypatch.setattr(products, "OUTPUTS", 16)  # 40 outputs: the last part is smaller
    for part, together in zip(all_three(), whole, strict=True):
        assert torch.allclose(part, together, rtol=ULP[torch.bfloat16], atol=1e-6)


def test_gradients_are_those_of_the_layer_in_float32(counted: Counter[str]) -> None:
    one, x = layer(torch.bfloat16), inputs(torch.bfloat16).requires_grad_()
    single = nn.Linear(48, 40)
    with torch.no_grad():
        single.weight.copy_(one.weight)
        single.bias.copy_(one.bias)
    y = x.detach().float().requires_grad_()
    direction = inputs(torch.bfloat16)[..., :40]
    (one(x) * direction).sum().backward()
    (single(y) * direction.float()).sum().backward()
    assert counted == {"product": 1, "_times": 1, "_outer": 1}
    for ours, reference in ((x, y), (one.weight, single.weight), (one.bias, single.bias)):
        assert ours.grad is not None
        assert reference.grad is not None
        assert ours.grad.dtype == torch.bfloat16
        assert torch.allclose(ours.grad.float(), reference.grad, rtol=ULP[torch.bfloat16], atol=1e-2)


def test_what_needs_no_gradient_gets_none(counted: Counter[str]) -> None:
    one, x = layer(torch.bfloat16), inputs(torch.bfloat16)
    one.weight.requires_grad_(False)
    one(x).sum().backward()
    assert counted == {"product": 1}
    assert one.weight.grad is None
    assert one.bias.grad is not None
    assert one.bias.grad.float().tolist() == [FEWEST_ROWS] * 40


@pytest.mark.parametrize("rows", [2, FEWEST_ROWS - 2])
def test_few_rows_are_multiplied_in_their_own_precision(rows: int, counted: Counter[str]) -> None:
    one, x = layer(torch.bfloat16), inputs(torch.bfloat16, rows)
    assert torch.equal(one(x), nn.functional.linear(x, one.weight, one.bias))
    assert one.float()(inputs(torch.float32)).dtype == torch.float32
    assert not counted


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows_are_multiplied_in_float32_if_asked(rows: int, counted: Counter[str]) -> None:
    one = layer(torch.bfloat16)
    x = inputs(torch.bfloat16).flatten(0, 1)
    with torch.no_grad():
        with for_any_rows():
            few, all_rows = one(x[:rows]), one(x)
        assert counted == {"product": 2}
        assert torch.allclose(few, all_rows[:rows], rtol=ULP[torch.bfloat16], atol=1e-6)
        one(x[:rows])
    assert counted == {"product": 2}, "the context did not end"


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
def test_a_few_samples_are_multiplied_in_float32_as_all_are(counted: Counter[str]) -> None:
    """A race scores parts of the samples, and compares them with losses of all samples."""
    module, rows = build("llama").to(torch.bfloat16), text_rows(80)
    assert use_faster_products(module)
    mask = Mask(N_BLOCKS, (1,))
    ((_, _, _),) = Forward(language_model(module)).loglikelihoods(rows[:1], [mask])
    layers = sum(isinstance(one, Float32Linear) for one in module.modules())
    in_a_block = sum(isinstance(one, Float32Linear) for one in find_blocks(module).modules[0].modules())
    assert counted["product"] >= layers - in_a_block, "some layer multiplied in half precision"


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
            assert ("products run in float32" in caplog.text) is answer
        monkeypatch.setattr(products, "float32_is_faster", lambda _: True)
        loaded = replace(settings, products="native").load()
        assert loaded.info.products is None
        assert not any(isinstance(one, Float32Linear) for one in loaded.module.modules())
        assert settings.load().info.products == "float32", "the setting was ignored"
    assert replace(settings, products="native").identity() == settings.identity()
    with pytest.raises(InputError, match=r"model\.products 'single'\. Available: auto, native"):
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
