"""Values of next-token distributions, computed in pieces, equal the exact ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pruning.engine import head
from pruning.engine.head import LIKELIHOOD, Distributions, Projection, Readout, distributions, read_out
from pruning.objective.divergence import _divergence
from pruning.objective.uncertainty import _change

SMALL = 50  # size of the vocabulary
TARGETS = torch.arange(20)
Value = Callable[[Distributions, Distributions], Tensor]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(head.PROJECTED, "cpu", 4 * SMALL * 7)
    monkeypatch.setitem(head.NORMALISED, "cpu", 4 * SMALL * 3)


def logits(seed: int, dtype: torch.dtype) -> Tensor:
    return (torch.randn(20, SMALL, generator=torch.Generator().manual_seed(seed)) * 15).to(dtype)


def exact(drawn: Tensor) -> Tensor:
    return torch.log_softmax(drawn.double(), -1)


IDENTITY = Projection(lambda states: states, SMALL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_likelihoods_equal_log_softmax_and_do_not_depend_on_other_positions(dtype: torch.dtype) -> None:
    drawn = logits(0, dtype)
    values = read_out(LIKELIHOOD, IDENTITY, drawn.clone(), None, TARGETS)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    np.testing.assert_allclose(values, exact(drawn)[TARGETS, TARGETS], rtol=tolerance, atol=tolerance)
    rows = zip(drawn.clone().split(1), TARGETS.split(1), strict=True)
    assert torch.equal(torch.cat([read_out(LIKELIHOOD, IDENTITY, r, None, t) for r, t in rows]), values)


def test_a_comparison_sees_the_dense_model_at_the_same_position() -> None:
    difference = Readout(lambda a, b, targets: (a.whole - b.whole)[:, 7] + 0 * targets, compares=True)
    a, b = logits(1, torch.float64), logits(2, torch.float64)
    values = read_out(difference, IDENTITY, a, list(distributions(IDENTITY, b)), TARGETS)
    np.testing.assert_allclose(values, (exact(a) - exact(b))[:, 7], rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 3.0, 8.0])
def test_a_large_vocabulary_biases_no_value(scale: float) -> None:
    draws = torch.Generator().manual_seed(0)
    a, b = (torch.randn(32, 151_936, generator=draws) * scale for _ in range(2))
    tokens = torch.arange(32) * 4_000
    off = Distributions(a).of(tokens) - exact(a)[torch.arange(32), tokens]
    assert off.abs().max() < 4e-7
    assert off.mean().abs() < 1e-7
    for value in (_divergence, _change):
        near = value(Distributions(a.clone()), Distributions(b)).double().mean()
        expected = value(Distributions(a.double()), Distributions(b.double())).mean()
        np.testing.assert_allclose(near, expected, rtol=1e-6, atol=3e-7, err_msg=value.__name__)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_overwriting_the_logits_changes_no_value(dtype: torch.dtype) -> None:
    drawn = logits(3, dtype)
    assert torch.equal(Distributions(drawn.clone()).take(TARGETS), Distributions(drawn).of(TARGETS))
    assert torch.equal(Distributions(drawn.clone()).take_whole(), Distributions(drawn).whole)


def test_logits_far_apart_and_infinite_ones_are_allowed() -> None:
    drawn = logits(3, torch.float32)
    drawn[0, :3] = torch.tensor([300.0, -200.0, -torch.inf])
    for token in (1, 2):
        found = Distributions(drawn).of(torch.full((20,), token))
        np.testing.assert_allclose(found, exact(drawn)[:, token], rtol=1e-6)
