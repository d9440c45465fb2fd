"""The losses of healing and their gradients, computed without the logits of all positions in memory at once.

For a window of T tokens, the T - 1 predictions are scored. With student logits z and teacher logits y,

    cross entropy  = -log softmax(z)[next token]
    KL             = sum_v p_v (log p_v - log q_v),    p = softmax(y), q = softmax(z)

The KL term is from Hinton et al. (arXiv 1503.02531). All losses here are sums over positions; the trainer divides by
the number of positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pruning.engine.head import NORMALISED, Distributions, positions_at_once
from pruning.healing.attention import FastAttention
from pruning.healing.heal_settings import LossWeights
from pruning.models.blocks import apply, enter, find_blocks, head


def summed_loss(
    student: Any, ids: Tensor, weights: LossWeights, teacher: Any = None, recompute: bool = False
) -> Tensor:
    """The weighted sum of cross entropy and KL over all predictions for token ids (B, T), in float32.

    `recompute` turns on gradient checkpointing.
    """
    hidden, goals = last_state(student, ids, recompute)[:, :-1].flatten(0, 1), None
    if weights.kl:
        with torch.no_grad():
            goals = last_state(teacher, ids)[:, :-1].flatten(0, 1)
    targets = ids[:, 1:].flatten().to(hidden.device)
    total: Tensor = _Readout.apply(hidden, targets, student, weights, teacher, goals)  # type: ignore[no-untyped-call]
    return total


def last_state(model: Any, ids: Tensor, recompute: bool = False) -> Tensor:
    """The state (B, T, D) after the last block, for token ids (B, T).

    With `recompute`, values inside blocks are not stored but computed again in the backward pass.
    """
    blocks, entry = find_blocks(model), enter(model, input_ids=ids)

    def after(index: int, hidden: Tensor) -> Tensor:
        with FastAttention():
            return apply(blocks, index, hidden, entry)

    hidden, again = entry.hidden, recompute and torch.is_grad_enabled()
    for index in range(len(blocks.modules)):
        hidden = checkpoint(after, index, hidden, use_reentrant=False) if again else after(index, hidden)
    return hidden


# Cross entropy and KL. Layers after the blocks are not trained, so only states need a gradient. This gradient
# is computed with the loss, some positions at a time. The gradient with respect to the student logits z is
#
#     cross entropy  softmax(z) - onehot(next token)
#     KL             softmax(z) - softmax(y),    y: teacher logits
#
# and backpropagation through the model's head gives the gradient with respect to the states. So logits are computed
# once, and none are kept for the backward pass, as in Liger Kernel (arXiv 2410.10989).


class _Readout(torch.autograd.Function):
    """The loss for states (n, D). The forward pass also computes the gradient for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        student: Any,
        weights: LossWeights,
        teacher: Any,
        goals: Tensor | None,
    ) -> Tensor:
        vocabulary = int(student.config.get_text_config(decoder=True).vocab_size)
        step = positions_at_once(hidden.device.type, vocabulary)
        total, gradients = torch.zeros((), dtype=torch.float64, device=hidden.device), []
        for start in range(0, len(hidden), step):
            part = slice(start, start + step)
            dense = None if goals is None else head(teacher, goals[part])
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                state = hidden[part].detach().requires_grad_(ctx.needs_input_grad[0])
                logits = head(student, state)
            loss, gradient = loss_of_logits(logits.detach(), dense, targets[part].to(logits.device), weights)
            total += loss.to(total.device)
            if ctx.needs_input_grad[0]:
                gradients.append(torch.autograd.grad(logits, state, gradient)[0])
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return total.float()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (ctx.saved_tensors[0] * upstream, None, None, None, None, None)


def loss_of_logits(
    logits: Tensor, dense: Tensor | None, targets: Tensor, weights: LossWeights
) -> tuple[Tensor, Tensor]:
    """The summed loss of logits (m, V) and its gradient (m, V), computed in groups of positions that fit the cache.

    `dense` are the teacher's logits (m, V); if it is None, the loss has no KL term.
    """
    piece = max(1, NORMALISED.get(logits.device.type, 1 << 25) // (4 * logits.shape[-1]))
    total, gradients = torch.zeros((), dtype=torch.float64, device=logits.device), torch.empty_like(logits)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    for start in range(0, len(logits), piece):
        part = slice(start, start + piece)
        z, right = logits[part].to(dtype), targets[part]
        student = Distributions(z)
        loss = -weights.ce * student.of(right).sum()
        gradient = student.probabilities * weights.ce
        gradient[torch.arange(len(z), device=z.device), right] -= weights.ce
        if dense is not None:
            teacher = Distributions(dense[part].to(logits.device, dtype))
            kl = (teacher.probabilities * (teacher.whole - student.whole)).sum(dtype=torch.float64)
            loss = loss + weights.kl * kl
            gradient.add_(student.probabilities - teacher.probabilities, alpha=weights.kl)
        gradients[part] = gradient
        total += loss
    return total, gradients
