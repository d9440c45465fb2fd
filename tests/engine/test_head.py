"""Values of next-token distributions, computed in pieces and compiled, equal the exact ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pruning.engine import head
from pruning.engine.head import LIKELIHOOD, Distributions, Projection, Readout, distributions, read_out
from pruning.objective.divergence import _divergence
from pruning.objective.uncertainty import _change

# Not ours: torch's own compiler uses parts of torch that it deprecates, when it is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler"
)
SMALL, FUSED = 50, 4 * head.SHORT  # sizes of vocabularies
TARGETS = torch.arange(20)
Value = Callable[[Distributions, Distributions], Tensor]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(head.PROJECTED, "cpu", 4 * SMALL * 7)
    monkeypatch.setitem(head.NORMALISED, "cpu", 4 * SMALL * 3)


def logits(seed: int, dtype: torch.dtype, vocabulary: int = SMALL) -> Tensor:
    return (torch.randn(20, vocabulary, generator=torch.Generator().manual_seed(seed)) * 15).to(dtype)


def exact(drawn: Tensor) -> Tensor:
    return torch.log_softmax(drawn.double(), -1)


def identity(vocabulary: int, fuse: bool = False) -> Projection:
    return Projection(lambda states: states, vocabulary, fuse=fuse)


@pytest.mark.parametrize("fuse", [False, pytest.param(True, marks=[needs_compiler, pytest.mark.slow])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_likelihoods_equal_log_softmax_and_do_not_depend_on_other_positions(
    dtype: torch.dtype, fuse: bool
) -> None:
    size = FUSED if fuse else SMALL
    projection, drawn = identity(size, fuse), logits(0, dtype, size)
    values = read_out(LIKELIHOOD, projection, drawn.clone(), None, TARGETS)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    np.testing.assert_allclose(values, exact(drawn)[TARGETS, TARGETS], rtol=tolerance, atol=tolerance)
    rows = zip(drawn.clone().split(1), TARGETS.split(1), strict=True)
    assert torch.equal(torch.cat([read_out(LIKELIHOOD, projection, r, None, t) for r, t in rows]), values)


def test_a_comparison_sees_the_dense_model_at_the_same_position() -> None:
    difference = Readout(lambda a, b, targets: (a.whole - b.whole)[:, 7] + 0 * targets, compares=True)
    a, b = logits(1, torch.float64), logits(2, torch.float64)
    values = read_out(difference, identity(SMALL), a, list(distributions(identity(SMALL), b)), TARGETS)
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


@needs_compiler
@pytest.mark.parametrize("value", [_divergence, _change])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_compiled_comparisons_equal_uncompiled_ones(value: Value, dtype: torch.dtype) -> None:
    pruned, dense = logits(1, dtype, FUSED), logits(2, dtype, FUSED)
    compiled = value(Distributions(pruned, fused=True), Distributions(dense, fused=True))
    expected = value(Distributions(pruned.double()), Distributions(dense.double()))
    np.testing.assert_allclose(compiled, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=needs_compiler)])
def test_logits_far_apart_and_infinite_ones_are_allowed(fused: bool) -> None:
    drawn = logits(3, torch.float32, FUSED)
    drawn[0, :3] = torch.tensor([300.0, -200.0, -torch.inf])
    for token in (1, 2):
        found = Distributions(drawn, fused).of(torch.full((20,), token))
        np.testing.assert_allclose(found, exact(drawn)[:, token], rtol=1e-6)


def test_only_vocabularies_that_can_be_divided_are_fused() -> None:
    drawn = [logits(4, torch.float32, size) for size in (FUSED, FUSED + 1)]
    found = [next(distributions(identity(d.shape[1], fuse=True), d)).fused for d in drawn]
    assert found == [True, False]
