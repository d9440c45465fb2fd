from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning import readings
from pruning.readings import LIKELIHOOD, Reading, read


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(readings.PROJECTED, "cpu", 4 * 50 * 7)
    monkeypatch.setitem(readings.NORMALISED, "cpu", 4 * 50 * 3)


def logits(seed: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(20, 50, generator=torch.Generator().manual_seed(seed)) * 20).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_likelihoods_equal_log_softmax(dtype: torch.dtype) -> None:
    targets = torch.arange(20)
    found = read(LIKELIHOOD, lambda states: states, 50, logits(0, dtype), None, targets)
    expected = torch.log_softmax(logits(0, dtype).double(), -1)[torch.arange(20), targets]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_a_comparison_sees_the_dense_model_at_the_same_position() -> None:
    difference = Reading(lambda logs, dense, targets: (logs - dense)[:, 7] + 0 * targets, compares=True)
    a, b = logits(1, torch.float64), logits(2, torch.float64)
    found = read(difference, lambda states: states, 50, a, b, torch.arange(20))
    expected = (torch.log_softmax(a, -1) - torch.log_softmax(b, -1))[:, 7]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
