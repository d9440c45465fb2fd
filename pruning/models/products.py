"""Matrix products in float32 for half-precision models, on processors that multiply float32 faster.

Processors without AMX take about twice as long in bfloat16 as in float32; with only AVX2, eight times as long.
On these processors, linear layers convert inputs and weights to float32, multiply, and round the product. This is as
precise as a product in half precision, which also adds in float32; only the order of the additions differs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

HALVES = (torch.bfloat16, torch.float16)
# With fewer than 50 to 100 rows, converting the weights takes more time than the float32 product saves.
FEWEST_ROWS = 128
# Weights are converted for this many outputs at a time, so that a large output layer needs little memory.
OUTPUTS = 8192
# float32 must be more than this many times as fast. Near 1, two measurements on one machine could disagree.
FASTER = 1.25

_within = 0  # the number of open contexts of `for_any_rows`, which generators enter and leave in any order


class Float32Linear(nn.Linear):
    """A half-precision linear layer that multiplies in float32 if its input has at least `fewest` rows."""

    fewest: ClassVar[int] = FEWEST_ROWS

    def forward(self, x: Tensor) -> Tensor:
        """The layer's outputs (..., out_features) for inputs (..., in_features), in the precision of the inputs."""
        if x.shape[:-1].numel() < self.fewest or x.dtype not in HALVES or x.device.type != "cpu":
            return super().forward(x)
        if torch.is_grad_enabled():
            return cast("Tensor", _Product.apply(x, self.weight, self.bias))  # type: ignore[no-untyped-call]
        return product(x, self.weight, self.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product `x W^T + b` (..., outputs), computed in float32 and rounded once, to the precision of `x`."""
    single, cuts = x.float(), _cuts(weight)
    biases = [None if bias is None else bias[cut].float() for cut in cuts]
    if len(cuts) == 1:
        return linear(single, weight.float(), biases[0]).to(x.dtype)
    out = x.new_empty(*x.shape[:-1], len(weight))
    for cut, added in zip(cuts, biases, strict=True):
        out[..., cut] = linear(single, weight[cut].float(), added)
    return out


class _Product(torch.autograd.Function):
    """`product` with gradients. For the backward pass, the factors are saved in half precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        need_x, need_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if need_weight else None, weight if need_x else None)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return (
            None if weight is None else _times(grad, weight),
            None if x is None else _outer(grad.flatten(0, -2), x.flatten(0, -2)),
            grad.flatten(0, -2).float().sum(0).to(grad.dtype) if ctx.needs_input_grad[2] else None,
        )


def _times(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient `grad W` (..., inputs) with respect to the inputs, summed in float32 over all outputs."""
    total = grad.new_zeros(*grad.shape[:-1], weight.shape[1], dtype=torch.float32)
    for cut in _cuts(weight):
        total += grad[..., cut].float() @ weight[cut].float()
    return total.to(grad.dtype)


def _outer(grad: Tensor, x: Tensor) -> Tensor:
    """The weights' gradient `grad^T x` (outputs, inputs), from `grad` (rows, outputs), `x` (rows, inputs)."""
    single, out = x.float(), x.new_empty(grad.shape[1], x.shape[1])
    for cut in _cuts(out):
        out[cut] = grad[:, cut].float().t() @ single
    return out


def _cuts(weight: Tensor) -> list[slice]:
    """Slices of a layer's outputs, with at most OUTPUTS outputs each."""
    return [slice(start, start + OUTPUTS) for start in range(0, len(weight), OUTPUTS)]


@contextmanager
def for_any_rows() -> Iterator[None]:
    """Within this context, `Float32Linear` multiplies in float32 for any number of rows.

    So a race, which starts with few samples, gets the same losses as a search that scores all at once.
    """
    global _within
    _within += 1
    Float32Linear.fewest = 0
    try:
        yield
    finally:
        _within -= 1
        Float32Linear.fewest = 0 if _within else FEWEST_ROWS


def use_faster_products(module: nn.Module) -> bool:
    """Make CPU linear layers multiply in float32 if that is faster; returns whether any layer was changed."""
    layers = [
        one
        for one in module.modules()
        if type(one) is nn.Linear and one.weight.dtype in HALVES and one.weight.device.type == "cpu"
        if not hasattr(one, "_hf_hook")
    ]
    if not layers or not float32_is_faster(layers[0].weight.dtype):
        return False
    for layer in layers:
        layer.__class__ = Float32Linear
    return True


@contextmanager
def native_products(module: nn.Module) -> Iterator[None]:
    """Within this context, all layers multiply in their own precision, as in other programs."""
    layers: list[nn.Module] = [one for one in module.modules() if type(one) is Float32Linear]
    for layer in layers:
        layer.__class__ = nn.Linear
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = Float32Linear


@cache
@torch.no_grad()
def float32_is_faster(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies float32 clearly faster than `dtype`. Measured once, in about 0.1 s.

    The CPU time of one thread is measured, so that other processes do not affect the answer.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _seconds(dtype) > FASTER * _seconds(torch.float32)
    finally:
        torch.set_num_threads(threads)


def _seconds(dtype: torch.dtype) -> float:
    """The shortest CPU time of three products, in seconds. A product before them initialises the library."""
    x, weight = torch.ones(512, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    taken = []
    for _ in range(4):
        started = time.thread_time()
        linear(x, weight)
        taken.append(time.thread_time() - started)
    return min(taken[1:])
