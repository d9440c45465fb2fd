"""Attention for training equals torch's, and is used only where it does."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pruning.healing import attention
from pruning.healing.attention import FastAttention, _Attention
from pruning.healing.losses import summed_loss
from tests.healing.worlds import full, text, tiny

TEXT = text(full())


def drawn(keys: int = 2, length: int = 70, dtype: Any = torch.bfloat16) -> tuple[Tensor, ...]:
    """Queries of 4 heads, keys and values of `keys` heads, and a gradient. Values are wider than keys."""
    shapes = ((2, 4, length, 8), (2, keys, length, 8), (2, keys, length, 12), (2, 4, length, 12))
    source = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=source, dtype=torch.float64).to(dtype) for shape in shapes]
    return (*(one.requires_grad_() for one in drawn[:3]), drawn[3])


def both(function: Any, given: tuple[Tensor, ...], **options: Any) -> tuple[Tensor, ...]:
    """The output and the gradients with respect to queries, keys and values."""
    *inputs, above = given
    out = function(*inputs, **options)
    return (out, *torch.autograd.grad(out, inputs, above))


def ours(*inputs: Tensor, scale: float = 8**-0.5) -> Tensor:
    return _Attention.apply(*inputs, scale)  # type: ignore[no-any-return, no-untyped-call]


def plain(given: tuple[Tensor, ...], **options: Any) -> tuple[Tensor, ...]:
    return both(scaled_dot_product_attention, given, is_causal=True, enable_gqa=True, **options)


@pytest.mark.parametrize(("keys", "length"), list(product((1, 2, 4), (1, 63, 64, 65, 150))))
def test_output_and_gradients_are_those_of_torch(keys: int, length: int) -> None:
    given = drawn(keys, length, torch.float64)
    for found, expected in zip(both(ours, given), plain(given), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for found, expected in zip(both(ours, given, scale=2.0), plain(given, scale=2.0), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_rounding_to_bfloat16_is_small() -> None:
    exact = plain(tuple(one.detach().double().requires_grad_() for one in drawn()))
    for found, expected in zip(both(ours, drawn()), exact, strict=True):
        assert found.dtype == torch.bfloat16
        error = (found - expected).detach().abs().mean() / expected.detach().abs().mean()
        assert float(error) < 2**-7


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the calls of `_Attention`, on a processor that is fast in bfloat16."""
    lengths: list[int] = []

    class Noted:
        @staticmethod
        def apply(*given: Any) -> Any:
            lengths.append(given[0].shape[2])
            return _Attention.apply(*given)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(attention, "_Attention", Noted)
    monkeypatch.setattr(attention, "float32_is_faster", lambda _: False)
    return lengths


def test_only_calls_that_it_computes_alike_are_taken_over(
    used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    query, key, value, _ = drawn()
    kept = {"is_causal": True, "enable_gqa": True}

    def call(*given: Tensor, **options: Any) -> Tensor:
        with FastAttention():
            return scaled_dot_product_attention(
                *given, **{"attn_mask": None, "dropout_p": 0.0, **kept, **options}
            )

    call(query, key, value)
    call(query, key, value, scale=0.5)
    assert used == [70, 70]
    plainly = call(query, key, value, is_causal=False)
    assert torch.equal(plainly, scaled_dot_product_attention(query, key, value, enable_gqa=True))
    call(query, key, value, dropout_p=0.5)
    call(query, key, value, is_causal=False, attn_mask=torch.ones(70, 70, dtype=torch.bool))
    call(query[:, :, -1:], key, value)
    call(query.float(), key.float(), value.float())
    with torch.no_grad():
        call(query, key, value)
    call(query.detach(), key.detach(), value.detach())
    monkeypatch.setattr(attention, "float32_is_faster", lambda _: True)
    call(query, key, value)
    assert used == [70, 70]


@pytest.mark.parametrize("recompute", [False, True])
def test_a_training_step_uses_it_in_every_block(
    used: list[int], recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, ids = full(), torch.tensor([row.input_ids for row in TEXT.windows[:4]])
    half = tiny().module.to(torch.bfloat16).requires_grad_(True)

    def gradients(model: Any) -> Tensor:
        model.zero_grad()
        torch.autograd.backward(summed_loss(model, ids, settings.losses, None, recompute))
        weights = [weight for weight in model.parameters() if weight.grad is not None]
        return torch.cat([weight.grad.flatten().float() for weight in weights])

    found = gradients(half)
    assert used == [settings.length] * half.config.num_hidden_layers * (1 + recompute)
    monkeypatch.setattr(attention, "float32_is_faster", lambda _: True)
    for made in (found, gradients(half)):  # by `_Attention`, and by torch
        exact = gradients(copy.deepcopy(half).float())
        assert 0 < float((made - exact).norm()) < 0.1 * float(exact.norm())
