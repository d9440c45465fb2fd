"""Causal attention for training in bfloat16 on a CPU, about twice as fast as torch's kernel.

With scale s, queries Q, keys K and values V, and a softmax over the positions up to each query's own,

    P = softmax(s Q K^T)      dV = P^T dO      dS = P * (dP - rowsum(P * dP)), where dP = dO V^T
    O = P V                   dQ = s dS K      dK = s dS^T Q

(FlashAttention, arXiv 2205.14135, appendix B.2). These are batched products of all heads, for a few positions at a
time. P is not kept: the backward pass computes it again. As in transformers' `eager` attention, it is in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from pruning.models.products import float32_is_faster

POSITIONS = 64  # queries at a time; with more, more scores of later positions are computed for nothing


class FastAttention(TorchFunctionMode):
    """Within this context, `_Attention` replaces torch's attention where it does the same and is faster."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if function is scaled_dot_product_attention and len(args) == 3 and _fits(args, options):
            scale = options.get("scale") or args[0].shape[-1] ** -0.5
            return _Attention.apply(*args, scale)  # type: ignore[no-untyped-call]
        return function(*args, **options)


def _fits(inputs: tuple[Tensor, ...], options: dict[str, Any]) -> bool:
    query, key, _ = inputs
    return (
        torch.is_grad_enabled()
        and any(one.requires_grad for one in inputs)
        and (query.ndim, query.dtype, query.device.type) == (4, torch.bfloat16, "cpu")
        and (query.shape[0], query.shape[2]) == (key.shape[0], key.shape[2])
        and (options.get("is_causal"), options.get("attn_mask")) == (True, None)
        and not (options.get("dropout_p") or float32_is_faster(query.dtype))
    )


class _Attention(torch.autograd.Function):
    """The outputs (B, H, T, E) for queries (B, H, T, D), keys (B, K, T, D) and values (B, K, T, E); K divides H."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        ctx.save_for_backward(query, key, value)
        out = query.new_empty(*query.transpose(1, 2).shape[:3], value.shape[3]).transpose(1, 2)  # T before H
        for part, _, chances in _parts(query, key, scale):
            out[:, :, part] = (chances @ value.flatten(0, 1)[:, : part.stop]).view_as(out[:, :, part])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        keys, values = key.flatten(0, 1), value.flatten(0, 1)
        total = torch.promote_types(key.dtype, torch.float32)
        to_key, to_value = (torch.zeros_like(one, dtype=total) for one in (keys, values))
        to_query = torch.empty_like(query)
        for part, rows, chances in _parts(query, key, ctx.scale):
            above = grad[:, :, part].reshape(*chances.shape[:2], -1)
            to_value[:, : part.stop] += chances.mT @ above
            slope = above @ values[:, : part.stop].mT
            slope = torch._softmax_backward_data(slope, chances, -1, slope.dtype).mul_(ctx.scale)
            to_query[:, :, part] = (slope @ keys[:, : part.stop]).view_as(to_query[:, :, part])
            to_key[:, : part.stop] += slope.mT @ rows
        return to_query, to_key.to(key.dtype).view_as(key), to_value.to(key.dtype).view_as(value), None


def _parts(query: Tensor, key: Tensor, scale: float) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield each group of positions, its queries (BK, rows, D), and their P (BK, rows, stop).

    The queries of all heads that share a key are the rows of one matrix.
    """
    keys, shared = key.flatten(0, 1), query.shape[1] // key.shape[1]
    for start in range(0, query.shape[2], POSITIONS):
        part = slice(start, min(start + POSITIONS, query.shape[2]))
        rows = query[:, :, part].reshape(len(keys), -1, query.shape[3])
        future = query.new_full((part.stop - start, part.stop), -math.inf).triu(1 + start).repeat(shared, 1)
        scores = torch.baddbmm(future.expand(len(keys), -1, -1), rows, keys[:, : part.stop].mT, alpha=scale)
        yield part, rows, scores.softmax(-1)
