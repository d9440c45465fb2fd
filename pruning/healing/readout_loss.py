"""Cross entropy and KL on next-token distributions, with their gradients, from the states after the last block.

What follows the last block is not trained, so only the gradient of the states is needed. It is computed together with
the loss, for some positions at a time: the gradient of a position's loss in its student logits z is

    cross entropy  softmax(z) - onehot(next token)
    KL             t (softmax(z / t) - softmax(y / t)),    y: teacher logits, t: temperature

and the model's own head carries it on to the state. So logits are computed once, those of all positions are never in
memory, and nothing of them is kept for the backward pass. The same idea as in Liger Kernel (arXiv 2410.10989).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruning.engine.logprobs import NORMALISED, Distributions, positions_at_once
from pruning.models.blocks import head


@dataclass(frozen=True)
class Weights:
    """What the losses count. The teacher is only run if `kl` or `hidden` is above 0."""

    ce: float = 1.0
    kl: float = 0.0
    hidden: float = 0.0
    temperature: float = 1.0

    @property
    def teaches(self) -> bool:
        """Whether a teacher is needed."""
        return self.kl > 0 or self.hidden > 0


def readout_loss(
    student: Any,
    last: Tensor,
    ids: Tensor,
    weights: Weights,
    teacher: Any = None,
    wanted: Tensor | None = None,
) -> Tensor:
    """The sum of cross entropy and KL over the predictions of token ids (B, T), in float32; a scalar.

    `last` are the student's states (B, T, D) after its last block, and `wanted` the teacher's; without them there is
    no KL.
    """
    hidden, targets = last[:, :-1].flatten(0, 1), ids[:, 1:].flatten().to(last.device)
    goals = None if wanted is None else wanted[:, :-1].flatten(0, 1)
    total: Tensor = _Readout.apply(hidden, targets, student, weights, teacher, goals)  # type: ignore[no-untyped-call]
    return total


class _Readout(torch.autograd.Function):
    """The loss of states (n, D). The forward pass computes their gradient as well; the backward pass returns it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        student: Any,
        weights: Weights,
        teacher: Any,
        goals: Tensor | None,
    ) -> Tensor:
        step = positions_at_once(hidden.device.type, _vocabulary(student))
        total, gradients = torch.zeros((), dtype=torch.float64, device=hidden.device), []
        for start in range(0, len(hidden), step):
            part = slice(start, start + step)
            dense = None if goals is None else head(teacher, goals[part])
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                state = hidden[part].detach().requires_grad_(ctx.needs_input_grad[0])
                logits = head(student, state)
            loss, gradient = _part(logits.detach(), dense, targets[part].to(logits.device), weights)
            total += loss.to(total.device)
            if ctx.needs_input_grad[0]:
                gradients.append(torch.autograd.grad(logits, state, gradient)[0])
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return total.float()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (ctx.saved_tensors[0] * upstream, None, None, None, None, None)


def _part(logits: Tensor, dense: Tensor | None, targets: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """The loss of logits (m, V) and its gradient (m, V), computed for as many positions as fit the cache."""
    piece = max(1, NORMALISED.get(logits.device.type, 1 << 25) // (4 * logits.shape[-1]))
    total, gradients = torch.zeros((), dtype=torch.float64, device=logits.device), torch.empty_like(logits)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    for start in range(0, len(logits), piece):
        part = slice(start, start + piece)
        y = None if dense is None else dense[part].to(logits.device, dtype)
        loss, gradients[part] = _with_gradient(logits[part].to(dtype), y, targets[part], weights)
        total += loss
    return total, gradients


def _with_gradient(z: Tensor, y: Tensor | None, targets: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """The loss of student logits z (m, V), and its gradient (m, V); y are the teacher's logits."""
    student = Distributions(z)
    loss = -weights.ce * student.of(targets).sum()
    gradient = student.probabilities * weights.ce
    gradient[torch.arange(len(z), device=z.device), targets] -= weights.ce
    if y is None:
        return loss, gradient
    heat = weights.temperature
    p, q = Distributions(y / heat), student if heat == 1 else Distributions(z / heat)
    kl = (p.probabilities * (p.whole - q.whole)).sum(dtype=torch.float64)
    gradient.add_(q.probabilities - p.probabilities, alpha=weights.kl * heat)
    return loss + weights.kl * heat**2 * kl, gradient


def _vocabulary(model: Any) -> int:
    return int(model.config.get_text_config(decoder=True).vocab_size)
