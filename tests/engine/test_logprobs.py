from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning.engine import head
from pruning.engine.head import LIKELIHOOD, Distributions, Projection, Readout, distributions, read_out
from pruning.objective import divergence, uncertainty


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(head.PROJECTED, "cpu", 4 * 50 * 7)
    monkeypatch.setitem(head.NORMALISED, "cpu", 4 * 50 * 3)


def logits(seed: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(20, 50, generator=torch.Generator().manual_seed(seed)) * 20).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_likelihoods_equal_log_softmax(dtype: torch.dtype) -> None:
    targets = torch.arange(20)
    values = read_out(LIKELIHOOD, Projection(lambda states: states, 50), logits(0, dtype), None, targets)
    expected = torch.log_softmax(logits(0, dtype).double(), -1)[torch.arange(20), targets]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance)


def test_a_comparison_sees_the_dense_model_at_the_same_position() -> None:
    difference = Readout(lambda a, b, targets: (a.whole - b.whole)[:, 7] + 0 * targets, compares=True)
    a, b = logits(1, torch.float64), logits(2, torch.float64)
    same = Projection(lambda states: states, 50)
    values = read_out(difference, same, a, distributions(same, b), torch.arange(20))
    expected = (torch.log_softmax(a, -1) - torch.log_softmax(b, -1))[:, 7]
    np.testing.assert_allclose(values, expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 3.0, 8.0])
def test_a_large_vocabulary_biases_no_value(scale: float) -> None:
    draws = torch.Generator().manual_seed(0)
    a, b = (torch.randn(32, 151_936, generator=draws) * scale for _ in range(2))
    exact_a = torch.log_softmax(a.double(), -1)
    tokens = torch.arange(32) * 4_000
    off = Distributions(a).of(tokens) - exact_a[torch.arange(32), tokens]
    assert off.abs().max() < 4e-7
    assert off.mean().abs() < 1e-7
    for value in (divergence._divergence, uncertainty._change):
        near = value(Distributions(a.clone()), Distributions(b))
        exact = value(Distributions(a.double()), Distributions(b.double()))
        np.testing.assert_allclose(
            near.double().mean(), exact.mean(), rtol=1e-6, atol=3e-7, err_msg=value.__name__
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_overwriting_the_logits_changes_no_value(dtype: torch.dtype) -> None:
    tokens, drawn = torch.arange(20), logits(3, dtype)
    assert torch.equal(Distributions(drawn.clone()).take(tokens), Distributions(drawn).of(tokens))
    assert torch.equal(Distributions(drawn.clone()).take_whole(), Distributions(drawn).whole)


def test_logits_far_apart_and_infinite_ones_are_allowed() -> None:
    logits = torch.tensor([[0.0, -200.0, 300.0, -torch.inf]])
    np.testing.assert_allclose(Distributions(logits).whole, torch.log_softmax(logits, -1))
