"""Compiled sums over a vocabulary equal the exact ones, and do not depend on the other positions."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pruning.engine import head
from pruning.engine.head import LIKELIHOOD, Distributions, Projection, distributions, read_out
from pruning.objective import divergence, uncertainty

# Not ours: torch's own compiler uses parts of torch that it deprecates, when it is first imported.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.skipif(
        not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler"
    ),
]

VOCABULARY = 4 * head.SHORT
Value = Callable[[Distributions, Distributions], Tensor]


def logits(seed: int, dtype: torch.dtype, vocabulary: int = VOCABULARY) -> Tensor:
    drawn = torch.randn(20, vocabulary, generator=torch.Generator().manual_seed(seed)) * 8
    return drawn.to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.slow
def test_likelihoods_are_exact_and_the_same_alone(dtype: torch.dtype) -> None:
    drawn, targets = logits(0, dtype), torch.arange(20)
    projection = Projection(lambda states: states, VOCABULARY, fuse=True)
    values = read_out(LIKELIHOOD, projection, drawn, None, targets)
    exact = torch.log_softmax(drawn.double(), -1)[torch.arange(20), targets]
    tolerance = 1e-12 if dtype == torch.float64 else 2e-7
    np.testing.assert_allclose(values, exact, rtol=tolerance, atol=tolerance)
    alone = [read_out(LIKELIHOOD, projection, drawn[i : i + 1], None, targets[i : i + 1]) for i in range(20)]
    assert torch.equal(torch.cat(alone), values), "a position depends on the others"


@pytest.mark.parametrize("value", [divergence._divergence, uncertainty._change])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_comparisons_equal_uncompiled_ones(value: Value, dtype: torch.dtype) -> None:
    pruned, dense = logits(1, dtype), logits(2, dtype)
    compiled = value(Distributions(pruned, fused=True), Distributions(dense, fused=True))
    exact = value(Distributions(pruned.double()), Distributions(dense.double()))
    np.testing.assert_allclose(compiled, exact, rtol=1e-6, atol=1e-6)


def test_logits_far_apart_and_infinite_ones_are_allowed() -> None:
    drawn = logits(3, torch.float32)
    drawn[0, :3] = torch.tensor([300.0, -200.0, -torch.inf])
    compiled = Distributions(drawn, fused=True).of(torch.full((20,), 2))
    np.testing.assert_allclose(compiled, torch.log_softmax(drawn.double(), -1)[:, 2], rtol=1e-6)


def test_only_vocabularies_that_can_be_divided_are_fused() -> None:
    fused, plain = (
        distributions(Projection(lambda s: s, size, fuse=True), logits(4, torch.float32, size))[0].fused
        for size in (VOCABULARY, VOCABULARY + 1)
    )
    assert (fused, plain) == (True, False)
