from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning.engine import logprobs
from pruning.engine.logprobs import LIKELIHOOD, Projection, Readout, read_out


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(logprobs.PROJECTED, "cpu", 4 * 50 * 7)
    monkeypatch.setitem(logprobs.NORMALISED, "cpu", 4 * 50 * 3)


def logits(seed: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(20, 50, generator=torch.Generator().manual_seed(seed)) * 20).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_likelihoods_equal_log_softmax(dtype: torch.dtype) -> None:
    targets = torch.arange(20)
    values = read_out(LIKELIHOOD, Projection(lambda states: states, 50), logits(0, dtype), None, targets)
    expected = torch.log_softmax(logits(0, dtype).double(), -1)[torch.arange(20), targets]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance)


def test_a_comparison_sees_the_dense_model_at_the_same_position() -> None:
    difference = Readout(lambda logs, dense, targets: (logs - dense)[:, 7] + 0 * targets, compares=True)
    a, b = logits(1, torch.float64), logits(2, torch.float64)
    values = read_out(difference, Projection(lambda states: states, 50), a, b, torch.arange(20))
    expected = (torch.log_softmax(a, -1) - torch.log_softmax(b, -1))[:, 7]
    np.testing.assert_allclose(values, expected, rtol=1e-12)
